# model(...)[0] is the loss, outputs[1] the logits used for accuracy.  idiom: epochs-module
# %% setup
import torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import DistilBertConfig, DistilBertForSequenceClassification

model = DistilBertForSequenceClassification(DistilBertConfig(
    vocab_size=25, dim=12, hidden_dim=16, n_layers=1, n_heads=2, max_position_embeddings=10, num_labels=2,
    dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0))
ids = torch.randint(1, 25, (12, 7)); mask = torch.ones_like(ids); y = torch.randint(0, 2, (12,))
train_loader = DataLoader(TensorDataset(ids, mask, y), batch_size=5, shuffle=True)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
device = 'cpu'
# %% cell
model.train()
for epoch in range(1):
    total_train_loss, n_correct = 0, 0
    for step, (ids, mask, targets) in enumerate(train_loader):
        ids = ids.to(device, dtype=torch.long)
        mask = mask.to(device, dtype=torch.long)
        targets = targets.to(device, dtype=torch.long)

        outputs = model(input_ids=ids, attention_mask=mask, labels=targets)
        loss = outputs[0]
        total_train_loss += loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        n_correct += (outputs[1].argmax(dim=1) == targets).sum().item()
    print("loss", total_train_loss / len(train_loader), "acc", n_correct / len(train_loader.dataset))

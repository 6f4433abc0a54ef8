# labels popped from the dict batch, class-weighted criterion on logits.  idiom: epochs-module
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader
from transformers import DistilBertConfig, DistilBertForSequenceClassification
model = DistilBertForSequenceClassification(DistilBertConfig(vocab_size=40, dim=16, n_layers=1, n_heads=2, hidden_dim=16,
        max_position_embeddings=16, num_labels=3, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0))
rows = [{"input_ids": torch.randint(1, 40, (7,)), "attention_mask": (torch.arange(7) < 3 + i % 5).long(),
         "labels": torch.tensor(i % 3)} for i in range(13)]
train_dataloader = DataLoader(rows, batch_size=5)
device = "cpu"
class_weights = torch.tensor([0.5, 1.0, 2.0])
# %% cell
from torch.optim import AdamW
from tqdm.auto import tqdm
optimizer = AdamW(model.parameters(), lr=1e-3)
loss_fct = nn.CrossEntropyLoss(weight=class_weights)
y_true, y_pred = [], []
for epoch in range(2):
    for batch in tqdm(train_dataloader, disable=True):
        batch = {k: v.to(device) for k, v in batch.items()}
        labels = batch.pop("labels")
        optimizer.zero_grad()
        logits = model(**batch).logits
        loss = loss_fct(logits, labels)
        loss.backward()
        optimizer.step()
        y_true.extend(labels.cpu().tolist())
        y_pred.extend(logits.argmax(-1).cpu().tolist())
print(len(y_true), loss.item())

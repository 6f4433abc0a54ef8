# batch = tuple(t.to(device) for t in batch) followed by an unpacking, the BERT tutorial of 2019.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ids = torch.randint(0, 20, (17, 5)); masks = torch.ones(17, 5); labs = torch.randint(0, 3, (17,))
train_dataloader = DataLoader(TensorDataset(ids, masks, labs), batch_size=6)

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(20, 6); self.o = nn.Linear(6, 3)
    def forward(self, ids, attention_mask=None, labels=None):
        h = (self.e(ids) * attention_mask.unsqueeze(-1)).mean(1)
        logits = self.o(h)
        if labels is None:
            return (logits,)
        return nn.functional.cross_entropy(logits, labels), logits

model = Tagger(); device = torch.device('cpu')
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
max_grad_norm = 1.0
# %% cell
train_loss_set = []
for _ in range(2):
    model.train()
    tr_loss = 0
    nb_tr_examples, nb_tr_steps = 0, 0
    for step, batch in enumerate(train_dataloader):
        # Add batch to GPU
        batch = tuple(t.to(device) for t in batch)
        # Unpack the inputs from our dataloader
        b_input_ids, b_input_mask, b_labels = batch
        optimizer.zero_grad()
        loss, logits = model(b_input_ids, attention_mask=b_input_mask, labels=b_labels)
        train_loss_set.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        # Update tracking variables
        tr_loss += loss.item()
        nb_tr_examples += b_input_ids.size(0)
        nb_tr_steps += 1
    print("Train loss: {}".format(tr_loss / nb_tr_steps))

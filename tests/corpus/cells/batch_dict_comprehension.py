# batch = {k: v.to(device) for k, v in batch.items()} then keys read one by one.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Sentences(Dataset):
    def __init__(self, n=14):
        self.ids = torch.randint(1, 30, (n, 6)); self.lab = torch.randint(0, 2, (n,))
        self.mask = (torch.rand(n, 6) > 0.2).long(); self.mask[:, 0] = 1
    def __len__(self):
        return len(self.lab)
    def __getitem__(self, i):
        return {"input_ids": self.ids[i], "attention_mask": self.mask[i], "labels": self.lab[i]}

class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(30, 8); self.head = nn.Linear(8, 2)
    def forward(self, input_ids, attention_mask):
        m = attention_mask.unsqueeze(-1)
        return self.head((self.emb(input_ids) * m).sum(1) / m.sum(1))

device = "cpu"
train_dataloader = DataLoader(Sentences(), batch_size=5, shuffle=True)
model = Bag()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
# %% cell
model.train()
for epoch in range(2):
    for batch in train_dataloader:
        batch = {k: v.to(device) for k, v in batch.items()}
        logits = model(batch["input_ids"], batch["attention_mask"])
        loss = criterion(logits, batch["labels"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(epoch, loss.item())

# LSTM language model: logits.view(-1, V), y.view(-1), perplexity from the running loss.  idiom: epochs-module
# %% setup
import math
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

V = 14
corpus = torch.randint(0, V, (11, 8))
train_dl = DataLoader(TensorDataset(corpus[:, :-1], corpus[:, 1:]), batch_size=4, shuffle=True)

class LSTMLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(V, 6)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.out = nn.Linear(8, V)
    def forward(self, x, state=None):
        h, state = self.lstm(self.emb(x), state)
        return self.out(h), state

lm = LSTMLM()
optimizer = torch.optim.Adam(lm.parameters(), lr=0.01)
criterion = nn.CrossEntropyLoss()
# %% cell
for epoch in range(2):
    lm.train()
    total = 0.
    for x, y in train_dl:
        optimizer.zero_grad()
        logits, _ = lm(x)
        loss = criterion(logits.view(-1, V), y.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 0.5)
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch + 1} | loss {total / len(train_dl):.3f} | ppl {math.exp(total / len(train_dl)):.2f}")

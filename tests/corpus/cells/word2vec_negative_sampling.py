# skip-gram with negatives drawn in the body by batch size, two embeddings called through one model.  idiom: loader-module
# %% setup
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

V, E, K = 20, 5, 3
pairs = torch.randint(0, V, (22, 2))
dataloader = DataLoader(TensorDataset(pairs), batch_size=8)

class SkipGram(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp = nn.Embedding(V, E)
        self.out = nn.Embedding(V, E)
    def forward(self, center, pos, neg):
        v = self.inp(center)
        p = (v * self.out(pos)).sum(-1)
        n = (self.out(neg) * v.unsqueeze(1)).sum(-1)
        return p, n

sg = SkipGram()
optimizer = torch.optim.Adam(sg.parameters(), lr=0.01)
# %% cell
total_loss = 0.0
for (batch,) in dataloader:
    center, context = batch[:, 0], batch[:, 1]
    neg = torch.randint(0, V, (batch.size(0), K))
    pos_score, neg_score = sg(center, context, neg)
    loss = -(F.logsigmoid(pos_score) + F.logsigmoid(-neg_score).sum(1)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    total_loss += loss.item()
print(f"{total_loss / len(dataloader):.5f}")

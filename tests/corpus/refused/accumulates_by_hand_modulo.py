# Gradient accumulation written by hand: `(i + 1) % k`, the loss divided by k.  idiom: accumulates-by-hand
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
k = 2
# %% cell
optimizer.zero_grad()
for i, (x, y) in enumerate(loader):
    loss = F.cross_entropy(model(x), y)
    loss = loss / k
    loss.backward()
    if (i + 1) % k == 0:
        optimizer.step()
        optimizer.zero_grad()
# %% refused
# line 6
# already accumulates
# `%%accumulate N --window` with N = `k` then takes N batches of the loader per update
# loss = F.cross_entropy(model(x), y)

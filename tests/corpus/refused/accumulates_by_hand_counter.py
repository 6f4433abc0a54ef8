# Accumulation with a counter of its own: only the divided loss tells.  idiom: accumulates-by-hand
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(23, 4), torch.randint(0, 3, (23,))
loader = DataLoader(TensorDataset(X, Y), batch_size=9)

accum_steps = 2
# %% cell
count = 0
optimizer.zero_grad()
for x, y in loader:
    loss = F.cross_entropy(model(x), y) / accum_steps
    loss.backward()
    count += 1
    if count == accum_steps:
        optimizer.step()
        optimizer.zero_grad()
        count = 0
# %% refused
# line 5
# already accumulates
# `accum_steps`

# Weights per sample in some steps only: `w = None` stays above the branch that binds it anew.  idiom: loader-module
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(23, 4), torch.randint(0, 3, (23,))
loader = DataLoader(TensorDataset(X, Y), batch_size=9)
# %% cell
for i, (x, y) in enumerate(loader):
    w = None
    if i % 2 == 1:
        w = torch.rand(len(x))
    losses = F.cross_entropy(model(x), y, reduction="none")
    loss = losses.mean() if w is None else (w * losses).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

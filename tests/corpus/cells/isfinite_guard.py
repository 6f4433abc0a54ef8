# `if not torch.isfinite(loss): continue` between the loss and the backward.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

feats = torch.randn(23, 3)
feats[13] = float("inf")
loader = DataLoader(TensorDataset(feats, torch.randn(23, 1)), batch_size=6)
model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
bad = []
# %% cell
for i, (x, y) in enumerate(loader):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    if not torch.isfinite(loss):
        print("skipping batch", i)
        bad.append(i)
        continue
    loss.backward()
    optimizer.step()
    print(i, loss.item())

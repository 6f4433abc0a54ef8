# `if torch.isfinite(loss):` around backward and step, the bad batches counted in its `else`.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

feats = torch.randn(23, 3)
feats[13] = float("inf")
loader = DataLoader(TensorDataset(feats, torch.randn(23, 1)), batch_size=6)
model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
# %% cell
bad = good = 0
for i, (x, y) in enumerate(loader):
    optimizer.zero_grad()
    pred = model(x)
    loss = nn.functional.mse_loss(pred, y)
    if torch.isfinite(loss):
        good += 1
        loss.backward()
        optimizer.step()
        print(i, loss.item())
    else:
        bad += 1

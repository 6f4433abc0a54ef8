# two updates in one branch, another in the other: they cannot share a loop.  idiom: backward-in-branches
# %% setup
import torch
from torch import nn

loader = torch.utils.data.DataLoader(torch.randn(23, 4), batch_size=8)
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for i, x in enumerate(loader):
    optimizer.zero_grad()
    if i % 2 == 0:
        model(x).pow(2).mean().backward()
        optimizer.step()
        model(-x).pow(2).mean().backward()
        optimizer.step()
    else:
        model(x).abs().mean().backward()
        optimizer.step()
# %% refused
# line 6
# inside `if i % 2 == 0`

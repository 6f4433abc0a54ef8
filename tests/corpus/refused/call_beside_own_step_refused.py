# Beside a step of its own the cell calls a function that trains and is refused: nothing is rewritten by halves.  idiom: follow-the-call
# %% setup
import torch
from torch import nn

def warm_up(loader):
    for x, y in loader:
        for row, target in zip(x, y):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(row), target).backward()
            optimizer.step()

model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = list(zip(torch.randn(12, 4).split(3), torch.randn(12, 1).split(3)))
# %% cell
warm_up(loader)
for x, y in loader:
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
# %% refused
# line 1 calls `warm_up`
# `x` is taken one sample at a time

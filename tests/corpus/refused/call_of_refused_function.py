# What is refused in a function that the cell calls is said with its name and line.  idiom: follow-the-call
# %% setup
import torch
from torch import nn

def train_all(loader):
    for epoch in range(2):
        train_epoch(loader)

def train_epoch(loader):
    for i, (x, y) in enumerate(loader):
        loss = nn.functional.mse_loss(model(x), y) / 2
        loss.backward()
        if (i + 1) % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()

model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = list(zip(torch.randn(12, 4).split(3), torch.randn(12, 1).split(3)))
# %% cell
train_all(loader)
# %% refused
# line 6 of `train_all` calls `train_epoch`
# and there line 12: this cell already accumulates gradients by hand

# `p.grad = None` between the loss and its backward, parameter by parameter.  idiom: epochs-module
# %% setup
import torch
from torch import nn
import torch.nn.functional as F

X, Y = torch.randn(23, 4), torch.randint(0, 3, (23,))
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
# %% cell
for i in range(4):
    loss = F.cross_entropy(model(X), Y)
    for p in model.parameters():
        p.grad = None
    loss.backward()
    for p in model.parameters():
        p.data += -0.1 * p.grad
    print(i, loss.item())

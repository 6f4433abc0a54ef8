# An objective over a parameter alone (feature visualisation, curve fitting by hand) has no batch.  idiom: nothing-to-split
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
theta = nn.Parameter(torch.tensor([2.0, -1.0]))
optimizer = torch.optim.SGD([theta], lr=0.1)
# %% cell
for step in range(5):
    optimizer.zero_grad()
    loss = (theta ** 2).sum()
    loss.backward()
    optimizer.step()
# %% refused
# line 4
# batch

# Ten classes and ten rows, full batch: the class weights look like the targets.  idiom: ambiguous-batch
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
model = nn.Linear(4, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 10, (10,))
w = torch.linspace(0.5, 1.5, 10)
# %% cell
for epoch in range(3):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(X), Y, weight=w)
    loss.backward()
    optimizer.step()
# %% refused
# line 3
# `w`
# `X`
# --batch

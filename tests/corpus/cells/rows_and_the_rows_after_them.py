# Every row against the next one, over the whole data set: the shifted rows are picked once.  idiom: full-batch
# %% setup
import torch
from torch import nn
import torch.nn.functional as F

X = torch.randn(13, 3)
model = nn.Linear(3, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for epoch in range(3):
    loss = F.mse_loss(model(X[:-1]), X[1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# A mask over ten features and ten rows, full batch: split it or hand it over whole?  idiom: ambiguous-batch
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
model = nn.Linear(10, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 10), torch.randn(10, 1)
keep = (torch.rand(10) > 0.3).double()
# %% cell
for epoch in range(3):
    optimizer.zero_grad()
    pred = model(X * keep)
    loss = F.mse_loss(pred, Y)
    loss.backward()
    optimizer.step()
# %% refused
# line 3
# `keep`
# `X`
# --batch

# A sweep over a literal list around a full-batch fit: the swept number is no batch.  idiom: full-batch
# %% setup
import torch
from torch import nn
import torch.nn.functional as F

X, Y = torch.randn(11, 3), torch.randn(11, 1)
# %% cell
fits = {}
for weight in [0.0, 1e-2, 1e-1]:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        loss = F.mse_loss(model(X), Y) + weight * model.weight.pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fits[weight] = loss.item()
fits

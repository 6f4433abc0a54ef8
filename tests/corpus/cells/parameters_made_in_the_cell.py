# The cell makes its own parameters and calls F.linear on them; only `requires_grad=True` tells.  idiom: loader-module
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(11, 3), torch.randn(11, 1)), batch_size=4)
# %% cell
w = torch.zeros(1, 3, requires_grad=True)
b = torch.zeros(1, requires_grad=True)
optimizer = torch.optim.SGD([w, b], lr=0.1)
for x, y in loader:
    loss = F.mse_loss(F.linear(x, w, b), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(w.tolist(), b.item())

# A term joins the loss only where it is large: each micro-batch would decide for itself.  idiom: test-in-slice
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
# %% cell
for x, y in loader:
    optimizer.zero_grad()
    out = model(x)
    loss = F.cross_entropy(out, y)
    aux = out.pow(2).mean()
    if aux.item() > 1:
        loss = loss + aux
    loss.backward()
    optimizer.step()
# %% refused
# line 6
# `aux`

# The mode is switched between forward and backward; micro-batch 2 would run in the other mode.  idiom: change-of-model-in-step
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
    model.train()
    optimizer.zero_grad()
    out = model(x)
    model.eval()
    loss = F.cross_entropy(out, y)
    loss.backward()
    optimizer.step()
# %% refused
# line 4
# line 5
# `model`

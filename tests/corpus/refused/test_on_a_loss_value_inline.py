# The same decision as a conditional expression: a loss scaled down where it is large.  idiom: test-in-slice
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
    raw = F.cross_entropy(model(x), y)
    loss = raw * 0.1 if raw > 2.0 else raw
    loss.backward()
    optimizer.step()
# %% refused
# line 4
# `raw`

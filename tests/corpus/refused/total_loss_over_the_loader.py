# The losses of all batches are summed and back-propagated once, behind the loop.  idiom: total-loss
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
optimizer.zero_grad()
total_loss = 0
for x, y in loader:
    total_loss = total_loss + F.cross_entropy(model(x), y)
total_loss.backward()
optimizer.step()
# %% refused
# line 5
# `total_loss`

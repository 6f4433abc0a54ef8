# A generator that is sent the weight of each loss between forward and backward.  idiom: yield-in-slice
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
def train():
    for x, y in loader:
        optimizer.zero_grad()
        out = model(x)
        weight = yield out.detach()
        loss = weight * F.cross_entropy(out, y)
        loss.backward()
        optimizer.step()

steps = train()
shown = next(steps).shape
for _ in range(len(loader) - 1):
    steps.send(0.5)
# %% refused
# line 5
# yield

# Every second row of a batch: picked once from the whole batch, not from each micro-batch.  idiom: loader-module
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(23, 4), torch.randint(0, 3, (23,))
loader = DataLoader(TensorDataset(X, Y), batch_size=9)
# %% cell
for x, y in loader:
    loss = F.cross_entropy(model(x[::2]), y[::2])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())

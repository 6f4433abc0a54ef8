# The size is read before both views are put into one batch: the loss is divided by the old one.  idiom: loader-module
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
    n = x.size(0)
    x = torch.cat([x, x + 0.1 * torch.randn_like(x)])
    y = torch.cat([y, y])
    loss = F.cross_entropy(model(x), y, reduction="sum") / n
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())

# What is logged from the first term sets the weight of the second: the log would have to run after the loop.  idiom: order-conflict
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
history = []
for x, y in loader:
    optimizer.zero_grad()
    out = model(x)
    ce = F.cross_entropy(out, y)
    history.append(ce.item())
    loss = ce + 0.01 * len(history) * out.pow(2).mean()
    loss.backward()
    optimizer.step()
# %% refused
# line 6
# line 7
# `history`

# The same through a helper: a call whose value nobody takes may change what it is given.  idiom: order-conflict
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
state = {"scale": 1.0}
def note(state, value):
    state["scale"] = 1.0 + value
# %% cell
for x, y in loader:
    optimizer.zero_grad()
    out = model(x)
    ce = F.cross_entropy(out, y)
    note(state, ce.item())
    loss = ce + 0.01 * state["scale"] * out.pow(2).mean()
    loss.backward()
    optimizer.step()
# %% refused
# line 5
# line 6
# `state`

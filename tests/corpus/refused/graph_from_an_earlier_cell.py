# The forward ran in the cell above; here only the loss and its backward.  idiom: graph-built-outside
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
optimizer.zero_grad()
out = model(X)
# %% cell
loss = F.cross_entropy(out, Y)
loss.backward()
optimizer.step()
# %% refused
# line
# `out`
# outside

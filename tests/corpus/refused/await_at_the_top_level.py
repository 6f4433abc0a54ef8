# The same at the cell's top level, as IPython allows.  idiom: await-in-slice
# plain: no (only IPython runs a top-level await)
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
import asyncio
async def remote_loss(out, y):
    await asyncio.sleep(0)
    return F.cross_entropy(out, y)
# %% cell
for x, y in loader:
    optimizer.zero_grad()
    loss = await remote_loss(model(x), y)
    loss.backward()
    optimizer.step()
# %% refused
# line 3
# await

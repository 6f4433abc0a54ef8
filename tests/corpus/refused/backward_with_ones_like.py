# backward(torch.ones_like(loss)): the sum over samples, written by the gradient.  idiom: backward-gradient
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
    loss = F.cross_entropy(model(x), y, reduction="none")
    loss.backward(torch.ones_like(loss))
    optimizer.step()
# %% refused
# line 4
# gradient
# .backward()

# backward(gradient): a vector-Jacobian product; its rows would have to be split with the loss.  idiom: backward-gradient
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
importance = torch.rand(10)
# %% cell
optimizer.zero_grad()
loss = F.cross_entropy(model(X), Y, reduction="none")
loss.backward(importance)
optimizer.step()
# %% refused
# line 3
# gradient

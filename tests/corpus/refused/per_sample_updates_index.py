# The same by index over a data set held in memory, as in Karpathy's makemore before batching.  idiom: per-sample-updates
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
for i in range(len(X)):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(X[i]), Y[i])
    loss.backward()
    optimizer.step()
# %% refused
# sample

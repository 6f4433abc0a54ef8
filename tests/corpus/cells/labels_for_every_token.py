# Ones for each token, sized from two sizes: made for each micro-batch, since no dimension is the batch's.  idiom: loader-module
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

disc = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(disc.parameters(), lr=0.1)
bce = nn.BCEWithLogitsLoss()
loader = DataLoader(TensorDataset(torch.randn(11, 5, 4)), batch_size=4)
# %% cell
for (real,) in loader:
    real_label = torch.ones(real.size(0) * real.size(1), 1)
    optimizer.zero_grad()
    loss = bce(disc(real.view(-1, 4)), real_label)
    loss.backward()
    optimizer.step()
    print(loss.item())

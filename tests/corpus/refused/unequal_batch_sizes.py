# Six labelled and ten unlabelled rows in one step: no split of one is the split of the other.  idiom: unequal-batches
# when: run
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
labelled = DataLoader(TensorDataset(X, Y), batch_size=6)
unlabelled = DataLoader(torch.randn(20, 4), batch_size=10)
# %% cell
for (x, y), u in zip(labelled, unlabelled):
    optimizer.zero_grad()
    supervised = F.cross_entropy(model(x), y)
    loss = supervised + 0.1 * model(u).pow(2).mean()
    loss.backward()
    optimizer.step()
# %% refused
# `u`
# 10
# 6

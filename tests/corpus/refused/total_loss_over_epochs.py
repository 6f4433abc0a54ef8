# The same inside an epoch loop, with the mean of a list of losses.  idiom: total-loss
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
for epoch in range(2):
    losses = []
    for x, y in loader:
        losses.append(F.cross_entropy(model(x), y))
    optimizer.zero_grad()
    loss = torch.stack(losses).mean()
    loss.backward()
    optimizer.step()
# %% refused
# line 7
# loop

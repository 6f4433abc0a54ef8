# a penalty on one layer, computed above the first call of the model: its graph runs once.  idiom: loss-sums
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(torch.randn(26, 5), torch.randn(26, 3)), batch_size=8)
model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for x, y in loader:
    optimizer.zero_grad()
    scale = model[0].weight.square().mean()
    loss = F.mse_loss(model(x), y) + 0.1 * scale
    loss.backward()
    optimizer.step()

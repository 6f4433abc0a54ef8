# criterion with reduction='sum', divided by x.size(0) before the backward.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(17, 4), torch.randn(17, 2)), batch_size=7)
model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
criterion = nn.MSELoss(reduction="sum")
opt = torch.optim.SGD(model.parameters(), lr=0.05)
# %% cell
for x, target in loader:
    opt.zero_grad()
    recon = model(x)
    loss = criterion(recon, target) / x.size(0)
    loss.backward()
    opt.step()
    print("per-sample loss", loss.item())

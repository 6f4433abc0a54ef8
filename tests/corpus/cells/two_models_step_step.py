# two models compared side by side, each forward-backward-step in turn on the same batch.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(16, 4), torch.randn(16, 1)), batch_size=6, shuffle=True)
net_sgd = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
net_adam = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
net_adam.load_state_dict(net_sgd.state_dict())
opt_sgd = torch.optim.SGD(net_sgd.parameters(), lr=0.05)
opt_adam = torch.optim.Adam(net_adam.parameters(), lr=0.05)
mse = nn.MSELoss()
# %% cell
hist_sgd, hist_adam = [], []
for epoch in range(2):
    for x, y in loader:
        loss_sgd = mse(net_sgd(x), y)
        opt_sgd.zero_grad()
        loss_sgd.backward()
        opt_sgd.step()
        hist_sgd.append(loss_sgd.item())

        loss_adam = mse(net_adam(x), y)
        opt_adam.zero_grad()
        loss_adam.backward()
        opt_adam.step()
        hist_adam.append(loss_adam.item())
print(hist_sgd[-1], hist_adam[-1])

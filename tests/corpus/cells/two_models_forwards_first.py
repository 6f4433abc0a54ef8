# both forwards first, then both backwards, then both steps.  idiom: full-batch
# %% setup
import torch
from torch import nn

x = torch.unsqueeze(torch.linspace(-1, 1, 21), 1)
y = x + 0.3 * torch.normal(torch.zeros(21, 1), torch.ones(21, 1))
net_small = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
net_big = nn.Sequential(nn.Linear(1, 12), nn.ReLU(), nn.Linear(12, 1))
optimizer_small = torch.optim.Adam(net_small.parameters(), lr=0.01)
optimizer_big = torch.optim.Adam(net_big.parameters(), lr=0.01)
loss_func = torch.nn.MSELoss()
# %% cell
for t in range(4):
    pred_small = net_small(x)
    pred_big = net_big(x)
    loss_small = loss_func(pred_small, y)
    loss_big = loss_func(pred_big, y)

    optimizer_small.zero_grad()
    optimizer_big.zero_grad()
    loss_small.backward()
    loss_big.backward()
    optimizer_small.step()
    optimizer_big.step()
    if t % 2 == 0:
        print(t, 'small: %.4f' % loss_small.item(), 'big: %.4f' % loss_big.data.numpy())

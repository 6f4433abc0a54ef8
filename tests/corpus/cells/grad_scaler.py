# torch.amp.GradScaler: scale(loss).backward(), unscale_, clip, step, update.  idiom: epochs-module
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(19, 5), torch.randn(19, 2)), batch_size=7)
net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
opt = torch.optim.SGD(net.parameters(), lr=0.05)
loss_fn = nn.MSELoss()
scaler = torch.amp.GradScaler("cpu", init_scale=1024., growth_interval=3)
# %% cell
for epoch in range(2):
    for input, target in loader:
        opt.zero_grad()
        output = net(input)
        loss = loss_fn(output, target)
        scaler.scale(loss).backward()
        scaler.unscale_(opt)
        torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm=0.1)
        scaler.step(opt)
        scaler.update()
    print(epoch, loss.item(), scaler.get_scale())

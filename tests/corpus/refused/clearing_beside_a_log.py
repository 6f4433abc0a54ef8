# zero_grad stands in an `if` that also logs the loss: it would run after the backward.  idiom: order-conflict
# %% setup
import random
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

D, C = 6, 3
X, Y, R = torch.randn(23, D), torch.randint(0, C, (23,)), torch.randn(23)
loader = DataLoader(TensorDataset(X, Y), batch_size=9)
rloader = DataLoader(TensorDataset(X, R), batch_size=9)
sl = DataLoader(TensorDataset(torch.randn(18, 9, D), torch.randint(0, C, (18,))), batch_size=9)
model = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, C))
reg = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, 1))
rnn, rnnb, head = nn.GRU(D, 5), nn.GRU(D, 5, batch_first=True), nn.Linear(5, C)
opt = torch.optim.SGD([p for m in (model, reg, rnn, rnnb, head) for p in m.parameters()], lr=0.1)
crit = nn.CrossEntropyLoss()
# %% cell
for t, (x, y) in enumerate(loader):
    loss = crit(model(x), y)
    if t % 2 == 0:
        print(t, loss.item())
        opt.zero_grad()
    loss.backward()
    opt.step()
# %% refused
# line 5
# line 3
# `opt.zero_grad()`

# the branch that makes the loss also resets the counter it was chosen by.  idiom: loss-schedule
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
k = 0
for x, y in loader:
    k += 1
    out = model(x)
    if k > 1:
        loss = F.cross_entropy(out, y, reduction='sum')
        k = 0
    else:
        loss = F.cross_entropy(out, y)
    opt.zero_grad()
    loss.backward()
    opt.step()

# the two losses share a graph, and the gradients are clipped between their backwards.  idiom: several-backwards
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

trunk, a, b = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 1)
params = [*trunk.parameters(), *a.parameters(), *b.parameters()]
opt = torch.optim.SGD(params, lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(23, 4), torch.randint(0, 3, (23,)), torch.randn(23, 1)), batch_size=8)
# %% cell
for x, y, r in loader:
    opt.zero_grad()
    h = torch.tanh(trunk(x))
    loss1 = nn.functional.cross_entropy(a(h), y)
    loss1.backward(retain_graph=True)
    nn.utils.clip_grad_norm_(params, 0.1)
    loss2 = nn.functional.mse_loss(b(h), r) * trunk(x).mean()
    loss2.backward()
    opt.step()
# %% refused
# line 7
# `h` carries a graph that line 3 built
# line 6 (`nn.utils.clip_grad_norm_(params, 0.1)`)

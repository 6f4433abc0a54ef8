# `torch.autograd.backward([l1, l2])`: a mean over the batch and a sum over it share one graph.  idiom: several-backwards
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(23, 4), torch.randint(0, 3, (23,))), batch_size=8)
net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
opt = torch.optim.SGD(net.parameters(), lr=0.05)
# %% cell
for x, y in loader:
    out = net(x)
    l1 = nn.functional.cross_entropy(out, y)
    opt.zero_grad()
    torch.autograd.backward([l1, 0.01 * out.pow(2).sum()])
    opt.step()
    print(l1.item())

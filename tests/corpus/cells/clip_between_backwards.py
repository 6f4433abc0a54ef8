# two tasks: the first one's gradients are clipped and their norm logged before the second's are added.  idiom: several-backwards
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

trunk, a, b = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 1)
params = [*trunk.parameters(), *a.parameters(), *b.parameters()]
opt = torch.optim.SGD(params, lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(23, 4), torch.randint(0, 3, (23,)), torch.randn(23, 1)), batch_size=8)


def gradient_norm(module):
    return sum(p.grad.pow(2).sum() for p in module.parameters()).sqrt().item()
# %% cell
norms = []
for x, y, r in loader:
    opt.zero_grad()
    loss1 = nn.functional.cross_entropy(a(torch.tanh(trunk(x))), y)
    loss1.backward()
    nn.utils.clip_grad_norm_(params, 0.1)
    norms.append(gradient_norm(trunk))
    loss2 = nn.functional.mse_loss(b(torch.tanh(trunk(x))), r)
    loss2.backward()
    opt.step()

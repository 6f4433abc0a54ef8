# `fake` crosses an update, and the noise it was made of is gone: it cannot be computed again.  idiom: crosses-updates
# %% setup
import torch
from torch import nn

G = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
D = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
batches = torch.utils.data.DataLoader(torch.randn(23, 2), batch_size=8)
opt_d, opt_g = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (D, G))
# %% cell
for real in batches:
    z = torch.randn(len(real), 2)
    fake = G(z)
    opt_d.zero_grad()
    loss_d = D(fake.detach()).mean() - D(real).mean()
    loss_d.backward()
    opt_d.step()
    z = torch.zeros(len(real), 2)
    opt_g.zero_grad()
    loss_g = -D(fake).mean()
    loss_g.backward()
    opt_g.step()
# %% refused
# line 10: `fake` carries a graph that line 3 built

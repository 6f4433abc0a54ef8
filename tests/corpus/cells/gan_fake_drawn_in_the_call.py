# `fake` is made once of noise drawn in the call, for the discriminator's step and the generator's: it is made anew.  idiom: crosses-updates
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
G = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 3))
D = nn.Sequential(nn.Linear(3, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1))
opt_g = torch.optim.Adam(G.parameters(), lr=1e-2)
opt_d = torch.optim.Adam(D.parameters(), lr=1e-2)
bce = nn.BCEWithLogitsLoss()
batches = torch.randn(2, 8, 3)
# %% cell
for real in batches:
    ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
    fake = G(torch.randn(len(real), 2))
    opt_d.zero_grad()
    loss_d = bce(D(real), ones) + bce(D(fake.detach()), zeros)
    loss_d.backward()
    opt_d.step()
    opt_g.zero_grad()
    loss_g = bce(D(fake), ones)
    loss_g.backward()
    opt_g.step()

# Discriminator and generator are both updated inside one `if`.  idiom: two-updates
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

G, D = nn.Linear(2, 4), nn.Linear(4, 1)
opt_g, opt_d = torch.optim.SGD(G.parameters(), lr=0.1), torch.optim.SGD(D.parameters(), lr=0.1)
bce = F.binary_cross_entropy_with_logits
loader = DataLoader(TensorDataset(torch.randn(10, 4)), batch_size=5)
training = True
# %% cell
for (real,) in loader:
    ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
    z = torch.randn(len(real), 2)
    if training:
        d_loss = bce(D(real), ones) + bce(D(G(z).detach()), zeros)
        opt_d.zero_grad()
        d_loss.backward()
        opt_d.step()
        g_loss = bce(D(G(z)), ones)
        opt_g.zero_grad()
        g_loss.backward()
        opt_g.step()
# %% refused
# line 11
# second backward
# line 4

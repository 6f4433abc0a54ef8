# A GAN in a function over a window: two steps share one loader, which is widened once.  idiom: window
# options: --window
# ignore: batches (the plain cell has larger ones)
# %% setup
import torch
from torch import nn

G = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 3))
D = nn.Sequential(nn.Linear(3, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1))
opt_g = torch.optim.SGD(G.parameters(), lr=0.1)
opt_d = torch.optim.SGD(D.parameters(), lr=0.1)
bce = nn.BCEWithLogitsLoss()
batches = torch.randn(23, 3).split(4 * WINDOW)

def train_gan(loader):
    history = []
    for real in loader:
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
        history.append((loss_d.item(), loss_g.item()))
    return history

def saliency(x):
    x = x.clone().requires_grad_()
    D(x).sum().backward()
    return x.grad
# %% cell
history = train_gan(batches)
D.zero_grad()
map_ = saliency(torch.ones(2, 3))

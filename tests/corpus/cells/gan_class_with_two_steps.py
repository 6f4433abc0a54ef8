# a GAN's methods draw noise for the real images they are given, or for a number of images.  idiom: method
# %% setup
import torch
from torch import nn

X = torch.randn(13, 2)
# %% cell
class GAN:
    def __init__(self):
        self.gen = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2))
        self.disc = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))
        self.opt_g = torch.optim.Adam(self.gen.parameters(), lr=1e-2)
        self.opt_d = torch.optim.Adam(self.disc.parameters(), lr=1e-2)
        self.bce = nn.BCEWithLogitsLoss()

    def disc_step(self, real):
        self.opt_d.zero_grad()
        fake = self.gen(torch.randn(real.size(0), 2)).detach()
        loss_real = self.bce(self.disc(real), torch.ones(real.size(0), 1))
        loss_fake = self.bce(self.disc(fake), torch.zeros(real.size(0), 1))
        d_loss = (loss_real + loss_fake) / 2
        d_loss.backward()
        self.opt_d.step()
        return d_loss.item()

    def gen_step(self, n):
        self.opt_g.zero_grad()
        z = torch.randn(n, 2)
        g_loss = self.bce(self.disc(self.gen(z)), torch.ones(n, 1))
        g_loss.backward()
        self.opt_g.step()
        return g_loss.item()

    def fit(self, X, bs=8):
        perm = torch.randperm(len(X))
        for i in range(0, len(X), bs):
            real = X[perm[i : i + bs]]
            print(self.disc_step(real), self.gen_step(len(real)))
        return self

gan = GAN().fit(X)

# WGAN-GP: the penalty takes gradients of gradients in a function of an earlier cell.  idiom: autograd-grad
# %% setup
import torch
from torch import autograd, nn

def gradient_penalty(D, real, fake):
    alpha = torch.rand(len(real), 1)
    mixed = (alpha * real + (1 - alpha) * fake).requires_grad_()
    scores = D(mixed)
    gradients = autograd.grad(scores, mixed, torch.ones_like(scores), create_graph=True)[0]
    return ((gradients.norm(2, dim=1) - 1) ** 2).mean()

G, D = nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer_D = torch.optim.Adam(D.parameters(), lr=1e-3)
loader = torch.randn(20, 4).split(8)
# %% cell
for real in loader:
    optimizer_D.zero_grad()
    fake = G(torch.randn(len(real), 3)).detach()
    penalty = gradient_penalty(D, real, fake)
    d_loss = D(fake).mean() - D(real).mean() + 10 * penalty
    d_loss.backward()
    optimizer_D.step()
# %% refused
# line 4
# `gradient_penalty` takes gradients inside the loss (`torch.autograd.grad`)

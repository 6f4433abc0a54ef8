# WGAN-GP: the gradient penalty differentiates the critic's gradient.  idiom: double-backward
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
real, fake = torch.randn(8, 4), torch.randn(8, 4)
# %% cell
optimizer.zero_grad()
eps = torch.rand(len(real), 1)
mixed = (eps * real + (1 - eps) * fake).requires_grad_(True)
grad, = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
penalty = ((grad.norm(2, dim=1) - 1) ** 2).mean()
loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
loss.backward()
optimizer.step()
# %% refused
# line 4
# torch.autograd.grad

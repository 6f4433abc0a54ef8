# both updates of a GAN by a function of the notebook, `sgd(params, lr)`.  idiom: two-updates
# %% setup
import torch
from torch import nn

G = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
D = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1))
loader = torch.utils.data.DataLoader(torch.randn(23, 2), batch_size=8)


def sgd(params, lr):
    with torch.no_grad():
        for p in params:
            if p.grad is not None:
                p.sub_(lr * p.grad)
                p.grad.zero_()
# %% cell
for real in loader:
    z = torch.randn(len(real), 3)
    d_loss = D(G(z).detach()).mean() - D(real).mean()
    d_loss.backward()
    sgd(D.parameters(), 0.1)
    g_loss = -D(G(z)).mean()
    g_loss.backward()
    sgd(G.parameters(), 0.1)

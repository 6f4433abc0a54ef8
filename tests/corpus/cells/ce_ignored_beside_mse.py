# cross entropy with ignored labels plus MSE plus L2, each logged: three denominators in one loss.  idiom: several-losses
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

labels = torch.randint(0, 4, (26,))
labels[torch.arange(26) % 3 == 1] = -100
labels[19:] = -100
loader = DataLoader(TensorDataset(torch.randn(26, 5), labels, torch.randn(26, 2)), batch_size=9)
body, cls, reg = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(8, 2)
params = [*body.parameters(), *cls.parameters(), *reg.parameters()]
opt = torch.optim.Adam(params, lr=1e-2)
# %% cell
history = []
for x, y, t in loader:
    h = torch.tanh(body(x))
    ce = F.cross_entropy(cls(h), y)
    mse = F.mse_loss(reg(h), t)
    l2 = sum((p ** 2).sum() for p in params)
    loss = ce + 0.5 * mse + 1e-3 * l2
    opt.zero_grad()
    loss.backward()
    opt.step()
    history.append((loss.item(), ce.item(), mse.item(), l2.item()))

# The optimizer steps inside backward (PyTorch's memory tutorial): each micro-batch would update.  idiom: optimizer-in-hook
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
def step_now(p):
    optimizers[p].step()
    optimizers[p].zero_grad()
for p in model.parameters():
    p.register_post_accumulate_grad_hook(step_now)
# %% cell
for x, y in loader:
    loss = F.cross_entropy(model(x), y)
    loss.backward()
# %% refused
# hook
# `step_now`

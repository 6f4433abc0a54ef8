# Two training loops over one loader, each with a step: every use of the loader is widened once.  idiom: window
# options: --window
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(torch.randn(43, 6), torch.randn(43, 1)), batch_size=4 * WINDOW)
body, head = nn.Linear(6, 4), nn.Linear(4, 1)
optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
# %% cell
for p in body.parameters():
    p.requires_grad_(False)
for x, y in loader:
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(head(body(x)), y)
    loss.backward()
    optimizer.step()
for p in body.parameters():
    p.requires_grad_(True)
total = 0
for i, (x, y) in enumerate(loader):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(head(body(x)), y)
    loss.backward()
    optimizer.step()
    total += loss.item()
mean = total / len(loader)

# an inner loop that moves the head by hand (`p.data -= ...`), then the update of all.  idiom: two-updates
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

body, head = nn.Linear(4, 5), nn.Linear(5, 3)
crit = nn.CrossEntropyLoss()
opt = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(23, 4), torch.randint(0, 3, (23,))), batch_size=8)
# %% cell
for x, y in loader:
    for k in range(2):
        inner = crit(head(torch.tanh(body(x))), y)
        opt.zero_grad()
        inner.backward()
        for p in head.parameters():
            p.data -= 0.2 * p.grad
    outer = crit(head(torch.tanh(body(x))), y)
    opt.zero_grad()
    outer.backward()
    opt.step()

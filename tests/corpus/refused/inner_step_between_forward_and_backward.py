# a loop of updates stands between the forward pass and its backward.  idiom: two-updates
# %% setup
import torch
from torch import nn

body, head = nn.Linear(4, 5), nn.Linear(5, 1)
opt = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
loader = torch.utils.data.DataLoader(torch.randn(23, 4), batch_size=8)
# %% cell
for x in loader:
    out = body(x)
    for k in range(2):
        inner = head(torch.tanh(body(x))).pow(2).mean()
        inner.backward()
        for p in head.parameters():
            p.data -= 0.2 * p.grad
    opt.zero_grad()
    outer = out.pow(2).mean()
    outer.backward()
    opt.step()
# %% refused
# line 3: `for k in range(2)` updates parameters
# line 2

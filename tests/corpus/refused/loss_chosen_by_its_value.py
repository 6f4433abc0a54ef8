# which multiple of the loss is back-propagated hangs on its value.  idiom: backward-in-branches
# %% setup
import torch
from torch import nn

loader = torch.utils.data.DataLoader(torch.randn(23, 3), batch_size=6)
model = nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
# %% cell
for x in loader:
    loss = model(x).pow(2).mean()
    optimizer.zero_grad()
    if loss > 1:
        (0.1 * loss).backward()
    else:
        loss.backward()
    optimizer.step()
# %% refused
# line 4: `if loss > 1` tests `loss`

# the gradients are cleared only where the loss is finite: whether they are is known after the loop.  idiom: loader-module
# %% setup
import torch
from torch import nn

loader = torch.utils.data.DataLoader(torch.randn(23, 3), batch_size=6)
model = nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
# %% cell
for x in loader:
    loss = model(x).pow(2).mean()
    if torch.isfinite(loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
# %% refused
# line 4: `optimizer.zero_grad()` stands under `if torch.isfinite(loss)`

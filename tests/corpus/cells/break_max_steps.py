# `if i >= max_steps: break` before the step, and a debugging print of shapes on the first batch.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(40, 4), torch.randint(0, 2, (40,))), batch_size=9)
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
max_steps = 3
# %% cell
for i, (x, y) in enumerate(loader):
    if i >= max_steps:
        break
    if i == 0:
        print(x.shape, y.shape, x.dtype)
    out = model(x)
    loss = nn.functional.cross_entropy(out, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(i, len(x), loss.item())

# every third step another loss of the same graph, an `elif` that back-propagates twice as much, or no update at all.  idiom: backward-in-branches
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(39, 4), torch.randint(0, 3, (39,))), batch_size=8)
model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for i, (x, y) in enumerate(loader):
    out = model(x)
    ce = nn.functional.cross_entropy(out, y)
    reg = out.pow(2).sum(1).mean()
    optimizer.zero_grad()
    if i % 3 == 0:
        reg.backward()
        optimizer.step()
    elif i < 3:
        (2 * ce).backward()
        optimizer.step()
    print(i, ce.item(), reg.item())

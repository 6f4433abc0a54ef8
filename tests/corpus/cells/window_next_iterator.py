# `next(it)` takes a window from an iterator that the cell made of the loader.  idiom: window
# options: --window
# ignore: it
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(torch.randn(43, 6), torch.randint(0, 3, (43,))), batch_size=3 * WINDOW)
model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
it = iter(loader)
history = []
for step in range(5):
    try:
        x, y = next(it)
    except StopIteration:
        it = iter(loader)
        x, y = next(it)
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append(loss.item())

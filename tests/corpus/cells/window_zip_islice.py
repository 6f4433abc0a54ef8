# A zip of loaders is windowed as a whole; islice counts windows.  idiom: window
# options: --window
# %% setup
from itertools import islice
import torch
from torch import nn
from torch.utils.data import DataLoader
source_loader = DataLoader(torch.randn(42, 4), batch_size=3 * WINDOW)
target_loader = DataLoader(torch.randn(42, 4) + 1, batch_size=3 * WINDOW)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for step, (xs, xt) in enumerate(islice(zip(source_loader, target_loader), 2)):
    optimizer.zero_grad()
    loss = model(xs).square().mean() + (model(xt) - 1).square().mean()
    loss.backward()
    optimizer.step()
    print(step, round(loss.item(), 6), len(source_loader))

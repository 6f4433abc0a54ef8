# The careful variant: the update also runs behind the last batch, the loss keeps its own name.  idiom: accumulates-by-hand
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
accumulation_steps = 4
# %% cell
model.train()
running = 0.0
for epoch in range(2):
    for step, (x, y) in enumerate(loader):
        loss = F.cross_entropy(model(x), y)
        (loss / accumulation_steps).backward()
        running += loss.item()
        if (step + 1) % accumulation_steps == 0 or step + 1 == len(loader):
            optimizer.step()
            optimizer.zero_grad()
# %% refused
# line 8
# already accumulates

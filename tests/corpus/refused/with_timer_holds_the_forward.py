# A timer around the forward: it would report one micro-batch as the batch.  idiom: with-in-step
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
class Timer:
    def __init__(self):
        self.entered = 0
    def __enter__(self):
        self.entered += 1
        return self
    def __exit__(self, *exc):
        return False
timer = Timer()
# %% cell
for x, y in loader:
    optimizer.zero_grad()
    with timer as t:
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
print(timer.entered, "forwards")
# %% refused
# line 3
# with
# timer

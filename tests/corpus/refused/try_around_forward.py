# try holds forward and loss, not the update: a failure in micro-batch 3 would leave half a gradient.  idiom: try-in-step
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
# %% cell
skipped = 0
for x, y in loader:
    optimizer.zero_grad()
    try:
        loss = F.cross_entropy(model(x), y)
    except RuntimeError:
        skipped += 1
        continue
    loss.backward()
    optimizer.step()
# %% refused
# line 4
# try

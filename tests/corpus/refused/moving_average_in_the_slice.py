# A moving average over batches enters the loss: it would move once per micro-batch.  idiom: carried-state
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
ema = torch.zeros(())
for x, y in loader:
    optimizer.zero_grad()
    out = model(x)
    ema = 0.9 * ema.detach() + 0.1 * out.mean()
    loss = F.cross_entropy(out, y) + ema ** 2
    loss.backward()
    optimizer.step()
# %% refused
# line 5
# `ema`

# `continue` on a large loss, gradients cleared after the step: a skipped batch leaves none behind.  idiom: jump-before-backward
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

feats = torch.randn(23, 3)
feats[13] = 100.0
loader = DataLoader(TensorDataset(feats, torch.randn(23, 1)), batch_size=6)
model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
# %% cell
skipped = 0
for x, y in loader:
    loss = F.mse_loss(model(x), y)
    if loss > 10:
        skipped += 1
        continue
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(skipped, loss.item())

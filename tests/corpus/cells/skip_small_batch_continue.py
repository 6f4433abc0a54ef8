# `if len(x) < k: continue` for the short last batch, before anything else.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(22, 3), torch.randn(22, 1)), batch_size=8)
model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
skipped = 0
# %% cell
for epoch in range(2):
    for x, y in loader:
        if len(x) < 7:
            skipped += 1
            continue
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
print("skipped", skipped, "loss", loss.item())

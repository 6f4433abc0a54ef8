# wall-clock time measured around the epoch; the times themselves are not compared.  idiom: epochs-module
# ignore: t0,elapsed (clock times)
# %% setup
import time
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(14, 3), torch.randn(14, 1)), batch_size=5)
model = nn.Linear(3, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
# %% cell
for epoch in range(2):
    t0 = time.time()
    total = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.l1_loss(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * x.shape[0]
    elapsed = time.time() - t0
    print(f"epoch {epoch} done, loss {total / len(loader.dataset):.4f}")

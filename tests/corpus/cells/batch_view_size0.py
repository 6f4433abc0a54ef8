# x.view(x.size(0), -1) and y.view(-1) inside the body.  idiom: epochs-module
# %% setup
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.rand(18, 2, 3, 3), torch.randint(0, 4, (18, 1))), batch_size=8)
fc = nn.Sequential(nn.Linear(18, 10), nn.Sigmoid(), nn.Linear(10, 4))
optimizer = optim.SGD(fc.parameters(), lr=0.5)
# %% cell
for epoch in range(2):
    total_loss = 0
    for x, y in loader:
        x = x.view(x.size(0), -1)
        y = y.view(-1)
        out = fc(x)
        loss = nn.functional.cross_entropy(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_loss += loss.item() * len(x)
    print(f"epoch {epoch} avg loss {total_loss / len(loader.dataset):.5f}")

# the README cell: one pass over a loader, zero_grad first.  idiom: loader-module
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

device = torch.device("cpu")
X = torch.randn(23, 6)
Y = torch.randint(0, 3, (23,))
loader = DataLoader(TensorDataset(X, Y), batch_size=9, shuffle=True)
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
# %% cell
for x, y in loader:
    x, y = x.to(device), y.to(device)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()

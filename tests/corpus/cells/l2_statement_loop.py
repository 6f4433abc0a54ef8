# an L2 penalty summed by a statement-level loop over the parameters: counted once.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(17, 3), torch.randn(17, 1)), batch_size=6)
model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
lmbda = 0.01
# %% cell
for x, y in loader:
    optimizer.zero_grad()
    pred = model(x)
    reg = 0.0
    for p in model.parameters():
        reg = reg + p.pow(2).sum()
    loss = nn.functional.mse_loss(pred, y) + lmbda * reg
    loss.backward()
    optimizer.step()
    print(loss.item())

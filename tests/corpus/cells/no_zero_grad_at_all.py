# the forgotten zero_grad: gradients of all earlier batches stay in and must still add up.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(16, 3), torch.randn(16, 2)), batch_size=6)
model = nn.Linear(3, 2)
opt = torch.optim.SGD(model.parameters(), lr=1e-2)
mse = nn.MSELoss()
# %% cell
for xb, yb in loader:
    loss = mse(model(xb), yb)
    loss.backward()
    opt.step()
    print(model.weight.grad.norm().item())

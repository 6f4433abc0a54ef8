# torch.autograd.backward(loss), the function behind the method.  idiom: loader-module
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(23, 4), torch.randint(0, 3, (23,))
loader = DataLoader(TensorDataset(X, Y), batch_size=9)
# %% cell
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    torch.autograd.backward(loss)
    optimizer.step()
    print(loss.item())

# Gradients by torch.autograd.grad and a manual update: no `.grad` in which to accumulate.  idiom: autograd-grad
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
for x, y in loader:
    loss = F.cross_entropy(model(x), y)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for p, g in zip(model.parameters(), grads):
            p -= 0.1 * g
# %% refused
# line 3
# torch.autograd.grad

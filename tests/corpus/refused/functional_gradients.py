# torch.func.grad: gradients as values, no backward at all.  idiom: no-backward
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
from torch.func import functional_call, grad
params = {k: v.detach() for k, v in model.named_parameters()}
def loss_of(params, x, y):
    return F.cross_entropy(functional_call(model, params, (x,)), y)
# %% cell
for x, y in loader:
    grads = grad(loss_of)(params, x, y)
    params = {k: p - 0.1 * grads[k] for k, p in params.items()}
# %% refused
# backward

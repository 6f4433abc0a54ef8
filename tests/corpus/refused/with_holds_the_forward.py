# A context manager of the user's own holds the forward: entered once, it cannot be entered per micro-batch.  idiom: with-in-step
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
from contextlib import contextmanager
features = []
@contextmanager
def recording(module):
    handle = module.register_forward_hook(lambda module, args, out: features.append(out.detach()))
    yield
    handle.remove()
# %% cell
for x, y in loader:
    optimizer.zero_grad()
    with recording(model[0]):
        out = model(x)
        loss = F.cross_entropy(out, y)
    loss.backward()
    optimizer.step()
# %% refused
# line 3
# with
# recording

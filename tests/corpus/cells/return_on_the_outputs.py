# a training function that returns when the features blow up, before its loss.  idiom: jump-before-backward
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
def train():
    for x, y in loader:
        optimizer.zero_grad()
        hidden = model[0](x)
        if hidden.abs().max() > 1e3:
            return "diverged"
        loss = F.cross_entropy(model[2](model[1](hidden)), y)
        loss.backward()
        optimizer.step()
    return "done"

status = train()

# A loop over layers returns when activations explode: a micro-batch would return for all.  idiom: jump-in-slice
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 3)])
optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(10, 4), torch.randint(0, 3, (10,))), batch_size=5)
# %% cell
def train():
    for x, y in loader:
        h = x
        for layer in layers:
            h = layer(h)
            if not torch.isfinite(h).all():
                return
        loss = F.cross_entropy(h, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

train()
# %% refused
# line 7
# `return`

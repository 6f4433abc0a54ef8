# A method calls `super()` in its forward pass, and a micro step is a function of its own.  idiom: method
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
    def forward(self, x):
        return self.fc(x)
loader = DataLoader(TensorDataset(torch.randn(10, 4), torch.randint(0, 3, (10,))), batch_size=5)
# %% cell
class Trained(Net):
    def fit(self, loader):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        for x, y in loader:
            out = super().forward(x)
            loss = F.cross_entropy(out, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

Trained().fit(loader)
# %% refused
# line 5
# `super()`

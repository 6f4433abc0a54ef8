# The magic stands above the cell that only defines the model; nothing trains here.  idiom: no-backward
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
# %% cell
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x)

model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% refused
# backward

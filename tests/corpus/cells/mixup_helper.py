# mixup_data helper returns (x, ya, yb, lam), then mixup_criterion; both in setup.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def mixup_data(x, y, lam=0.7):
    index = torch.randperm(x.size(0))
    return lam * x + (1 - lam) * x[index], y, y[index], lam

def mixup_criterion(criterion, pred, y_a, y_b, lam):
    return lam * criterion(pred, y_a) + (1 - lam) * criterion(pred, y_b)

trainloader = DataLoader(TensorDataset(torch.rand(13, 4), torch.randint(0, 3, (13,))), batch_size=5)
net = nn.Linear(4, 3)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
# %% cell
for inputs, targets in trainloader:
    inputs, targets_a, targets_b, lam = mixup_data(inputs, targets)
    outputs = net(inputs)
    loss = mixup_criterion(criterion, outputs, targets_a, targets_b, lam)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(lam, loss.item())

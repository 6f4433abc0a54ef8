# CutMix with `rand_bbox(x.size(), lam)` defined in the cell: one box for the whole batch.  idiom: loader-module
# %% setup
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(13, 1, 4, 4), torch.randint(0, 3, (13,))), batch_size=5)
model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
# %% cell
def rand_bbox(size, lam):
    side = int(size[2] * np.sqrt(1.0 - lam))
    top = np.random.randint(size[2])
    return np.clip(top - side // 2, 0, size[2]), np.clip(top + side // 2, 0, size[2])

for input, target in loader:
    if np.random.rand(1) < 0.7:
        lam = np.random.beta(1.0, 1.0)
        rand_index = torch.randperm(input.size()[0])
        target_b = target[rand_index]
        low, high = rand_bbox(input.size(), lam)
        input[:, :, low:high] = input[rand_index, :, low:high]
        lam = 1 - (high - low) / input.size()[-1]
        output = model(input)
        loss = criterion(output, target) * lam + criterion(output, target_b) * (1.0 - lam)
    else:
        output = model(input)
        loss = criterion(output, target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

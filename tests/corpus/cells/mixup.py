# mixup with a beta draw and torch.randperm over the batch, two targets.  idiom: epochs-module
# %% setup
import torch
import numpy as np
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.rand(19, 6), torch.randint(0, 4, (19,))), batch_size=8, shuffle=True)
net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
alpha = 0.4
# %% cell
for epoch in range(2):
    train_loss, correct, total = 0, 0, 0
    for batch_idx, (inputs, targets) in enumerate(loader):
        lam = np.random.beta(alpha, alpha)
        index = torch.randperm(inputs.size(0))
        mixed = lam * inputs + (1 - lam) * inputs[index, :]
        targets_a, targets_b = targets, targets[index]

        outputs = net(mixed)
        loss = lam * criterion(outputs, targets_a) + (1 - lam) * criterion(outputs, targets_b)
        train_loss += loss.item()
        _, predicted = torch.max(outputs.data, 1)
        total += targets.size(0)
        correct += (lam * predicted.eq(targets_a.data).sum().double()
                    + (1 - lam) * predicted.eq(targets_b.data).sum().double())

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{epoch}: {train_loss / (batch_idx + 1):.4f} acc {100. * correct / total:.2f}")

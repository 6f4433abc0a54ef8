# The numbers that a step logs are of the tasks that have labels: a micro-batch has fewer tasks than another.  idiom: values-of-the-step
# when: run
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset
labels = torch.randint(0, 3, (24, 2))
labels[12:, 1] = -1
loader = DataLoader(TensorDataset(torch.randn(24, 5), labels), batch_size=24)
trunk = nn.Sequential(nn.Linear(5, 8), nn.ReLU())
heads = nn.ModuleList([nn.Linear(8, 3) for _ in range(2)])
optimizer = torch.optim.SGD([*trunk.parameters(), *heads.parameters()], lr=0.1)
criterion = nn.CrossEntropyLoss()
# %% cell
logs = []
for x, y in loader:
    h = trunk(x)
    loss = 0
    items = {}
    for k, head in enumerate(heads):
        valid = y[:, k] >= 0
        if valid.any():
            task_loss = criterion(head(h)[valid], y[valid, k])
            loss = loss + task_loss
            items[f"task{k}"] = task_loss.item()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    logs.append(items)
# %% refused
# `items`
# holds 2 values in one of them and 1 in another
# --replay always

# Progress as `(i + 1) / len(loader)` under a window is no division of the loss.  idiom: window
# options: --window
# %% setup
import copy, io, math, time, random, itertools
import numpy as np
import torch
from torch import nn, optim
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, Dataset
def train_one_epoch(model, loader, opt, sched, epoch):
    meter = []
    for i, (x, y) in enumerate(loader):
        out = model(x)
        loss = F.cross_entropy(out, y)
        opt.zero_grad(); loss.backward(); opt.step(); sched.step()
        meter.append((epoch + (i + 1) / len(loader), sched.get_last_lr()[0], loss.item()))
    return meter
x, y = torch.randn(43, 6), torch.randint(0, 3, (43,))
loader = DataLoader(TensorDataset(x, y), batch_size=4 * WINDOW)
model = nn.Linear(6, 3); opt = optim.Adam(model.parameters(), 1e-2)
# %% cell
epochs = 2
sched = optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=epochs * len(loader))
rows = [r for e in range(epochs) for r in train_one_epoch(model, loader, opt, sched, e)]
print(len(loader), rows[-1])

# a factory of earlier cells makes optimizer and scheduler from len(loader), given the loader by the cell.  idiom: window
# options: --window
# %% setup
import copy, io, math, time, random, itertools
import numpy as np
import torch
from torch import nn, optim
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, Dataset
def make_opt(model, loader, epochs):
    opt = optim.SGD(model.parameters(), 0.1)
    total = len(loader) * epochs
    return opt, optim.lr_scheduler.LambdaLR(opt, lambda s: max(0.0, 1 - s / total))
def train(model, loader, epochs):
    opt, sched = make_opt(model, loader, epochs)
    for e in range(epochs):
        for x, y in loader:
            loss = F.mse_loss(model(x), y)
            opt.zero_grad(); loss.backward(); opt.step(); sched.step()
    return sched.get_last_lr(), e
x, y = torch.randn(43, 6), torch.randn(43, 1)
loader = DataLoader(TensorDataset(x, y), batch_size=4 * WINDOW)
model = nn.Linear(6, 1)
# %% cell
lrs, _ = train(model, loader, 2)

# a cosine schedule per batch in a Trainer class that asks for len(loader) in its __init__ in the cell.  idiom: window
# options: --window
# %% setup
import copy, io, math, time, random, itertools
import numpy as np
import torch
from torch import nn, optim
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, Dataset
class Trainer:
    def __init__(self, model, loader, epochs):
        self.model, self.loader, self.epochs = model, loader, epochs
        self.opt = optim.SGD(model.parameters(), 0.1)
        self.sched = optim.lr_scheduler.CosineAnnealingLR(self.opt, T_max=epochs * len(loader))
        self.step = 0
    def fit(self):
        for self.epoch in range(self.epochs):
            running = 0.0
            for x, y in self.loader:
                self.opt.zero_grad()
                loss = F.mse_loss(self.model(x), y)
                loss.backward()
                self.opt.step()
                self.sched.step()
                self.step += 1
                running += loss.item()
            print(self.epoch, running / len(self.loader), self.step)
        return self
x, y = torch.randn(43, 6), torch.randn(43, 1)
loader = DataLoader(TensorDataset(x, y), batch_size=4 * WINDOW)
# %% cell
t = Trainer(nn.Linear(6, 1), loader, 2).fit()
lr = t.sched.get_last_lr()

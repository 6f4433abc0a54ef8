# An object made in the cell makes the trainer whose method it calls.  idiom: follow-the-call
# %% setup
import copy, io, math, time, random, itertools
import numpy as np
import torch
from torch import nn, optim
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, Dataset
class Trainer:
    def __init__(self, model, lr): self.model, self.opt = model, optim.SGD(model.parameters(), lr)
    def fit(self, dl):
        out = []
        for x, y in dl:
            loss = F.mse_loss(self.model(x), y)
            self.opt.zero_grad(); loss.backward(); self.opt.step()
            out.append(loss.item())
        return out
class Experiment:
    def __init__(self, model, dl, lr=0.1):
        self.dl = dl
        self.trainer = Trainer(model, lr)
    def run(self, n): return [self.trainer.fit(self.dl) for _ in range(n)]
dl = DataLoader(TensorDataset(torch.randn(26, 4), torch.randn(26, 1)), batch_size=8)
# %% cell
exp = Experiment(nn.Linear(4, 1), dl)
logs = exp.run(2)

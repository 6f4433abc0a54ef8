# A method of each object of a list.  idiom: follow-the-call
# %% setup
import copy, io, math, time, random, itertools
import numpy as np
import torch
from torch import nn, optim
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, Dataset
class Agent:
    def __init__(self, lr):
        self.net = nn.Linear(4, 1); self.opt = optim.SGD(self.net.parameters(), lr)
    def learn(self, s, r):
        loss = F.mse_loss(self.net(s).squeeze(1), r)
        self.opt.zero_grad(); loss.backward(); self.opt.step()
        return loss.item()
data = DataLoader(TensorDataset(torch.randn(26, 4), torch.randn(26)), batch_size=8)
agents = [Agent(lr) for lr in (0.1, 0.01)]
# %% cell
logs = []
for agent in agents:
    logs.append([agent.learn(s, r) for s, r in data])

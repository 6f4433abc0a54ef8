# The function that the cell calls calls a method of an object that it is given.  idiom: follow-the-call
# %% setup
import copy, io, math, time, random, itertools
import numpy as np
import torch
from torch import nn, optim
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, Dataset
class Agent:
    def __init__(self):
        self.net = nn.Linear(4, 1); self.opt = optim.SGD(self.net.parameters(), 0.1)
    def learn(self, s, r):
        loss = F.mse_loss(self.net(s).squeeze(1), r)
        self.opt.zero_grad(); loss.backward(); self.opt.step()
        return loss.item()
def run(player, data):
    return [player.learn(s, r) for s, r in data]
data = DataLoader(TensorDataset(torch.randn(26, 4), torch.randn(26)), batch_size=8)
agent = Agent()
# %% cell
logs = run(agent, data=data)

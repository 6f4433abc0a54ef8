# Reptile's inner step takes arrays and makes tensors of them; the last batch has two samples, the probe needs three.  idiom: step-function
# %% setup
import copy
import numpy as np
import torch
from torch import nn
model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
rng = np.random.RandomState(0)
x_all = np.linspace(-5, 5, 10)[:, None]
y_all = np.sin(x_all)
# %% cell
innerstepsize, outerstepsize = 0.02, 0.1
def totorch(x):
    return torch.tensor(x, dtype=torch.float64)
def train_on_batch(x, y):
    x = totorch(x)
    y = totorch(y)
    model.zero_grad()
    ypred = model(x)
    loss = (ypred - y).pow(2).mean()
    loss.backward()
    for param in model.parameters():
        param.data -= innerstepsize * param.grad.data
for iteration in range(2):
    weights_before = copy.deepcopy(model.state_dict())
    inds = rng.permutation(len(x_all))
    for start in range(8, -1, -8):  # the short batch first
        mbinds = inds[start:start + 8]
        train_on_batch(x_all[mbinds], y_all[mbinds])
    weights_after = model.state_dict()
    model.load_state_dict({name: weights_before[name] + (weights_after[name] - weights_before[name]) * outerstepsize for name in weights_before})

# two datasets concatenated in the loop, domain weights by numpy mask.  idiom: two-loaders
# ignore: start, end, t0, elapsed, since, time_elapsed
# %% setup
import copy
import math
import random
import time
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from torch.autograd import Variable
from torch.utils.data import DataLoader, TensorDataset
device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
l1 = DataLoader(TensorDataset(torch.randn(26, 4), torch.randint(0, 3, (26,))), batch_size=8)
l2 = DataLoader(TensorDataset(torch.randn(13, 4), torch.randint(0, 3, (13,))), batch_size=4)
model = nn.Linear(4, 3); optimizer = optim.SGD(model.parameters(), .1)
# %% cell
for epoch in range(2):
    it2 = iter(l2)
    for x1, y1 in l1:
        x2, y2 = next(it2)
        x = torch.cat((x1, x2), 0)
        y = torch.cat((y1, y2), 0)
        w = torch.ones(len(x)); w[len(x1):] = 0.5
        out = model(x)
        loss = (F.cross_entropy(out, y, reduction='none') * w).sum() / w.sum()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        a1 = (out[:len(x1)].argmax(1) == y1).sum().item(); a2 = (out[len(x1):].argmax(1) == y2).sum().item()
        print(loss.item(), a1, a2)

# `out` is a view of the batch first, then each layer's output: read later, it is the last one.  idiom: batch-reshaped
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
loader = DataLoader(TensorDataset(torch.randn(26, 2, 2), torch.randint(0, 3, (26,))), batch_size=8)
l1=nn.Linear(4,6); l2=nn.Linear(6,3)
opt = optim.SGD([*l1.parameters(), *l2.parameters()], .1)
# %% cell
hits = 0
for x, y in loader:
    opt.zero_grad()
    out = x.view(x.size(0), -1)
    out = torch.relu(l1(out))
    out = l2(out)
    loss = F.cross_entropy(out, y)
    loss.backward()
    opt.step()
    hits += (out.argmax(1) == y).sum().item()
print(hits)

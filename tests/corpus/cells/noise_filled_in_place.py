# An empty tensor is filled with noise in place: drawn once, then split.  idiom: in-place
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
loader = DataLoader(TensorDataset(torch.randn(26, 4), torch.randint(0, 3, (26,))), batch_size=8)
net=nn.Linear(5,3)
opt = optim.SGD(net.parameters(), .1)
# %% cell
for x, y in loader:
    opt.zero_grad()
    z = torch.empty(x.size(0), 1)
    z.uniform_(-1, 1)
    out = net(torch.cat([x, z], 1))
    loss = F.cross_entropy(out, y)
    loss.backward()
    opt.step()
    print(loss.item())

# A one-hot target of zeros is filled row by row.  idiom: in-place
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
net=nn.Linear(4,3)
opt = optim.SGD(net.parameters(), .1)
# %% cell
for x, y in loader:
    opt.zero_grad()
    onehot = torch.zeros(len(y), 3)
    for k in range(len(y)):
        onehot[k, y[k]] = 1
    p = torch.sigmoid(net(x))
    loss = F.binary_cross_entropy(p, onehot)
    loss.backward()
    opt.step()
    print(loss.item())

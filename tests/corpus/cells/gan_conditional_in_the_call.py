# A conditional generator is called with noise and labels put together in the call.  idiom: crosses-updates
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
loader = DataLoader(TensorDataset(torch.randn(26, 4), torch.rand(26, 3)), batch_size=8)
G = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4)); D = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(.2), nn.Linear(6, 1))
gopt = optim.Adam(G.parameters(), 1e-2); dopt = optim.Adam(D.parameters(), 1e-2)
# %% cell
for real, y in loader:
    D.zero_grad()
    noise = torch.randn(real.size(0), 2)
    fake = G(torch.cat([noise, y], 1))
    errD = D(fake.detach()).mean() - D(real).mean()
    errD.backward()
    dopt.step()
    G.zero_grad()
    errG = -D(fake).mean()
    errG.backward()
    gopt.step()

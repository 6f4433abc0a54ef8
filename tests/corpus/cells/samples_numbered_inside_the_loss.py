# A ramp over the samples stands inside the loss: made once, then split.  idiom: batch-size-in-forward
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
lin = nn.Linear(4, 3); opt = optim.SGD(lin.parameters(), .1)
# %% cell
for x, y in loader:
    l = F.cross_entropy(lin(x), y, reduction='none')
    loss = torch.sum(l * torch.linspace(1, .5, steps=x.shape[0])) / x.shape[0]
    opt.zero_grad(); loss.backward(); opt.step()

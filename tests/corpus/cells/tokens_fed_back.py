# Tokens are fed back into the decoder: the name of a view is bound anew per micro-batch.  idiom: batch-reshaped
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
src = torch.randint(1, 9, (26, 4))
loader = DataLoader(TensorDataset(src), batch_size=8)
emb = nn.Embedding(9, 6); cell = nn.GRUCell(6, 6); head = nn.Linear(6, 9)
opt = optim.SGD([*emb.parameters(), *cell.parameters(), *head.parameters()], .1)
# %% cell
for (t,) in loader:
    opt.zero_grad()
    inp = t[:, 0]
    h = torch.zeros(t.size(0), 6)
    loss = 0
    for k in range(1, 4):
        h = cell(emb(inp), h)
        out = head(h)
        loss = loss + F.cross_entropy(out, t[:, k])
        inp = out.argmax(1)
    loss.backward()
    opt.step()
    print(loss.item(), (inp == t[:, -1]).sum().item())

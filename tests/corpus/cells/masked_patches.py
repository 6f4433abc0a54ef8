# masked autoencoder: random mask in the body, loss only on masked patches divided by mask sum.  idiom: ssl
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
loader = DataLoader(TensorDataset(torch.randn(26, 6, 4)), batch_size=8)
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok = nn.Parameter(torch.zeros(4)); self.l = nn.Linear(24, 24)
    def forward(self, x, m):
        x = torch.where(m[..., None], self.tok, x); return self.l(x.flatten(1)).view_as(x)
model = M(); opt = optim.AdamW(model.parameters(), 1e-2)
# %% cell
for ep in range(2):
    for (img,) in loader:
        B, L, D = img.shape
        noise = torch.rand(B, L)
        ids = noise.argsort(dim=1)
        mask = torch.zeros(B, L, dtype=torch.bool)
        mask.scatter_(1, ids[:, :3], True)
        pred = model(img, mask)
        loss = (pred - img) ** 2
        loss = loss.mean(dim=-1)
        loss = (loss * mask).sum() / mask.sum()
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(ep, loss.item(), pred[mask].mean().item())

# the loader collates into a namedtuple, fields read as attributes.  idiom: loader-module
# %% setup
import torch
from collections import namedtuple
from torch import nn
from torch.utils.data import DataLoader

Batch = namedtuple("Batch", ["src", "trg"])
pairs = [Batch(torch.randn(4), torch.randn(2)) for _ in range(13)]
train_iter = DataLoader(pairs, batch_size=5)
model = nn.Linear(4, 2)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
total = 0.
for i, batch in enumerate(train_iter):
    pred = model(batch.src)
    loss = nn.functional.mse_loss(pred, batch.trg)
    opt.zero_grad()
    loss.backward()
    opt.step()
    total += loss.item()
    if i % 2 == 0:
        print(i, total / (i + 1))

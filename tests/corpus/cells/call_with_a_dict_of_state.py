# A dict of model and optimizer is handed to the step function: it is no batch.  idiom: follow-the-call
# %% setup
import copy, io, math, time, random, itertools
import numpy as np
import torch
from torch import nn, optim
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, Dataset
def supervised_step(batch, state, *, scale=1.0):
    x, y = batch
    out = state["model"](x)
    loss = state["loss"](out, y)
    state["opt"].zero_grad()
    (scale * loss).backward()
    state["opt"].step()
    return {"loss": loss.item(), "n": len(x)}
def eval_step(batch, state):
    x, y = batch
    with torch.no_grad():
        return {"loss": state["loss"](state["model"](x), y).item(), "n": len(x)}
def run(loader, step, state, *, log=print, **kwargs):
    rows = []
    for i, batch in enumerate(loader):
        row = step(batch, state, **kwargs)
        rows.append(row)
        log(i, row)
    return sum(r["loss"] * r["n"] for r in rows) / sum(r["n"] for r in rows)
x, y = torch.randn(26, 6), torch.randn(26, 1)
loader = DataLoader(TensorDataset(x, y), batch_size=8)
model = nn.Linear(6, 1)
state = dict(model=model, loss=nn.MSELoss(), opt=optim.SGD(model.parameters(), 0.1))
# %% cell
log = []
out = {e: (run(loader, supervised_step, state, scale=0.5), run(loader, eval_step, state, log=lambda *a: log.append(a))) for e in range(2)}
print(out)

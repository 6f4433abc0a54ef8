# np.random.choice indices into numpy arrays, from_numpy in the body.  idiom: sampling
# %% setup
import torch
import numpy as np
from torch import nn

rng = np.random.default_rng(3)
data_x = rng.normal(size=(40, 6))
data_y = data_x @ rng.normal(size=(6, 1))
device = 'cpu'
model = nn.Linear(6, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
# %% cell
history = []
for it in range(4):
    idx = rng.choice(len(data_x), 13, replace=False)
    xb = torch.from_numpy(data_x[idx]).to(device)
    yb = torch.from_numpy(data_y[idx]).to(device)
    loss = nn.functional.huber_loss(model(xb), yb)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append((it, loss.item()))
history[-1]

# A number bound in a step that samples its own batch multiplies the model's input: it is no batch.  idiom: sampling
# %% setup
import torch
from torch import nn
import torch.nn.functional as F

X, Y = torch.randn(40, 4), torch.randn(40, 1)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for step in range(4):
    sigma = 0.1
    ix = torch.randint(40, (9,))
    xb, yb = X[ix], Y[ix]
    xb = xb + sigma * torch.randn_like(xb)
    loss = F.mse_loss(model(1 / (1 + sigma) * xb), yb)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())

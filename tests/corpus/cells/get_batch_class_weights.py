# Ten classes and ten rows from get_batch(): the weights are no batch, since the step draws its own.  idiom: sampling
# %% setup
import torch
from torch import nn
import torch.nn.functional as F

X, Y = torch.randn(40, 4), torch.randint(0, 10, (40,))
w = torch.linspace(0.5, 1.5, 10)
def get_batch():
    ix = torch.randint(40, (10,))
    return X[ix], Y[ix]
model = nn.Linear(4, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for step in range(4):
    xb, yb = get_batch()
    loss = F.cross_entropy(model(xb), yb, weight=w)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"{loss.item():.4f}")

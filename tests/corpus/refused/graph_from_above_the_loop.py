# The forward pass stands above the loop that goes back through it again and again.  idiom: graph-built-outside
# plain: no (the second backward meets changed weights)
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(23, 4), torch.randint(0, 3, (23,))
loader = DataLoader(TensorDataset(X, Y), batch_size=9)
# %% cell
loss = F.cross_entropy(model(X), Y)
for epoch in range(3):
    optimizer.zero_grad()
    loss.backward(retain_graph=True)
    optimizer.step()
# %% refused
# line 4
# `loss`
# outside this step

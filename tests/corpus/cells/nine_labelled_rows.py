# The first rows of a data set and a label for each of them: a slice with fixed bounds draws no batch.  idiom: full-batch
# %% setup
import torch
from torch import nn
import torch.nn.functional as F

X = torch.randn(23, 4)
labels = torch.randint(0, 3, (9,))
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for epoch in range(3):
    labelled = X[:9]
    loss = F.cross_entropy(model(labelled), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())

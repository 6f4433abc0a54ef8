# A helper returns the loss and a mean over the batch without a graph: nothing tells how to put its parts together.  idiom: helper-metric
# when: run
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
def evaluate(x, y):
    out = model(x)
    return F.cross_entropy(out, y), (out.argmax(1) == y).double().mean()
# %% cell
accuracies = []
for x, y in loader:
    optimizer.zero_grad()
    loss, acc = evaluate(x, y)
    loss.backward()
    optimizer.step()
    accuracies.append(acc)
# %% refused
# line 4
# `acc`
# return the predictions, or compute it after the step

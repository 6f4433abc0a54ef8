# The same with a Python number, as utility functions of courses return it.  idiom: helper-metric
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
def loss_and_accuracy(logits, targets):
    correct = (logits.argmax(dim=-1) == targets).sum().item()
    return F.cross_entropy(logits, targets), 100.0 * correct / len(targets)
# %% cell
for x, y in loader:
    optimizer.zero_grad()
    loss, acc = loss_and_accuracy(model(x), y)
    loss.backward()
    optimizer.step()
    print(f"{loss.item():.4f} {acc:.1f}%")
# %% refused
# line 3
# `acc`
# return the predictions, or compute it after the step

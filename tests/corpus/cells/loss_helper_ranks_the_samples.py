# A helper of another cell weighs each sample by its place in the batch: torch.arange begins with 0 in each micro-batch.  idiom: loss-replay
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(torch.randn(22, 5), torch.randn(22, 2)), batch_size=8)
model = nn.Linear(5, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def discounted(errors, gamma=0.9):
    return (errors.mean(1) * gamma ** torch.arange(len(errors))).mean()
# %% cell
losses = []
for x, y in loader:
    loss = discounted((model(x) - y) ** 2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

# prints of len(x) around the step, the last expression shows the list's end.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(11, 2), torch.randn(11, 1)), batch_size=4)
model, losses = nn.Linear(2, 1), []
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for x, y in loader:
    print("batch of", len(x))
    optimizer.zero_grad()
    loss = ((model(x) - y) ** 2).mean()
    print("  loss", loss.item(), "on", x.shape[0], "rows")
    loss.backward()
    optimizer.step()
    losses.append(float(loss))
losses[-1]

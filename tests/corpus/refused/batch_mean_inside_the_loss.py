# The same mean written inside the loss, beside the model's output.  idiom: batch-statistics
# when: run
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(11, 4)), batch_size=4)
# %% cell
for (x,) in loader:
    loss = F.mse_loss(model(x) + x.mean(0), x)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())
# %% refused
# could both be the batch

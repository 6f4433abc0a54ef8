# reduction='none', per-sample losses kept for a report, then .mean().  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(16, 4), torch.randint(0, 3, (16,))), batch_size=6)
model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
ce = nn.CrossEntropyLoss(reduction="none")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
hardest = []
# %% cell
for xb, yb in loader:
    optimizer.zero_grad()
    per_sample = ce(model(xb), yb)
    loss = per_sample.mean()
    loss.backward()
    optimizer.step()
    hardest.append(per_sample.max().item())
print(hardest, per_sample.shape)

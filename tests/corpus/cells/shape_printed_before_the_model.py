# The permuted batch's shape is printed before the model sees it.  idiom: loader-module
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Conv1d(3, 4, 2), nn.Flatten(), nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(11, 5, 3), torch.randint(0, 2, (11,))), batch_size=4)
# %% cell
for i, (x, y) in enumerate(loader):
    x = x.permute(0, 2, 1)
    if i == 0:
        print(x.shape)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()

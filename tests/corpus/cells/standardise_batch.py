# the batch standardised by its own mean and std in the body: needs the whole batch.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(3 + 2 * torch.randn(19, 4), torch.randint(0, 3, (19,))), batch_size=7)
model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
opt = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
# %% cell
for x, y in loader:
    x = (x - x.mean(0)) / x.std(0)
    opt.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    opt.step()
    print(loss.item(), x.abs().max().item())

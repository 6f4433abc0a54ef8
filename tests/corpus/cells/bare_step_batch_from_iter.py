# one batch by next(iter(loader)), one step, the loss as the cell's value.  idiom: bare-step
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

train_dl = DataLoader(TensorDataset(torch.randn(20, 4), torch.randint(0, 3, (20,))), batch_size=13)
mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
opt = torch.optim.SGD(mlp.parameters(), lr=0.3)
# %% cell
xb, yb = next(iter(train_dl))
logits = mlp(xb)
loss = F.cross_entropy(logits, yb)
opt.zero_grad()
loss.backward()
opt.step()
loss.item()

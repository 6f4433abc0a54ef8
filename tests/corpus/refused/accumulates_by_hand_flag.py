# gradient accumulation by hand, where a name says whether it is the k-th batch.  idiom: accumulates-by-hand
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(23, 4), torch.randint(0, 3, (23,))), batch_size=8)
model, crit = nn.Linear(4, 3), nn.CrossEntropyLoss()
opt = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
k = 2
opt.zero_grad()
for i, (x, y) in enumerate(loader):
    loss = crit(model(x), y) / k
    loss.backward()
    is_last = i + 1 == len(loader)
    do_step = (i + 1) % k == 0 or is_last
    if do_step:
        opt.step()
        opt.zero_grad()
# %% refused
# line 8: this cell already accumulates gradients by hand (`if do_step`

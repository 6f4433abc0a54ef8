# a head is trained some steps on features that the loop around has computed of its batch.  idiom: two-updates
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(13, 4), torch.randint(0, 3, (13,))), batch_size=5)
body, head, criterion = nn.Linear(4, 5), nn.Linear(5, 3), nn.CrossEntropyLoss()
opt_head = torch.optim.SGD(head.parameters(), lr=0.2)
opt_all = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
# %% cell
for x, y in loader:
    features = body(x).detach()
    for k in range(2):
        inner = criterion(head(features), y)
        opt_head.zero_grad()
        inner.backward()
        opt_head.step()
    outer = criterion(head(torch.tanh(body(x))), y)
    opt_all.zero_grad()
    outer.backward()
    opt_all.step()

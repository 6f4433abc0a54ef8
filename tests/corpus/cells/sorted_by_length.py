# Sorted by length with index_select: positions in the whole batch, looked up before the split.  idiom: loader-module
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

gru, fc = nn.GRU(3, 5, batch_first=True), nn.Linear(5, 2)
optimizer = torch.optim.SGD([*gru.parameters(), *fc.parameters()], lr=0.1)
lengths = torch.randint(2, 7, (13,))
loader = DataLoader(TensorDataset(torch.randn(13, 6, 3), lengths, torch.randint(0, 2, (13,))), batch_size=5)
# %% cell
for x, lengths, y in loader:
    order = lengths.argsort(descending=True)
    x, lengths, y = x.index_select(0, order), lengths.index_select(0, order), y.index_select(0, order)
    out, _ = gru(x)
    last = out[torch.arange(len(x)), lengths - 1]
    loss = F.cross_entropy(fc(last), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(lengths.tolist(), loss.item())

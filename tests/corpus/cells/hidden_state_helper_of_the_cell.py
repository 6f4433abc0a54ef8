# a helper of the cell makes zeros of the batch's size, which is not their first dimension.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(13, 3, 4), torch.randint(0, 3, (13,))), batch_size=5)
rnn, head = nn.RNN(4, 6, batch_first=True), nn.Linear(6, 3)
optimizer = torch.optim.SGD([*rnn.parameters(), *head.parameters()], lr=0.1)
criterion = nn.CrossEntropyLoss()
# %% cell
def init_hidden(n):
    return torch.zeros(1, n, 6)

for x, y in loader:
    h = init_hidden(x.size(0))
    out, h = rnn(x, h)
    loss = criterion(head(out[:, -1]), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

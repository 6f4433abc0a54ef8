# an RNN cell is unrolled by hand, and the name that its loop binds last is read behind it.  idiom: loader-def
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(13, 3, 4), torch.randint(0, 3, (13,))), batch_size=5)
rnn, head = nn.RNNCell(4, 6), nn.Linear(6, 3)
optimizer = torch.optim.SGD([*rnn.parameters(), *head.parameters()], lr=0.1)
criterion = nn.CrossEntropyLoss()
# %% cell
def train():
    total = 0
    for x, y in loader:
        h = torch.zeros(x.size(0), 6)
        for t in range(x.size(1)):
            h = rnn(x[:, t], h)
            out = head(h)
        loss = criterion(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total

train()

# Hidden state made for the batch's own size and carried on, over windows of batches that follow each other in time.  idiom: window
# options: --window --dim h=1
# ignore: rows (the plain cell has larger batches)
# %% setup
import torch
from torch import nn
series = torch.randn(6, 24, 3)
rows = 2 * WINDOW
def loader():
    for first in range(0, 24, rows):
        yield series[:, first : first + rows].transpose(0, 1)
rnn, head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 1)
optimizer = torch.optim.SGD([*rnn.parameters(), *head.parameters()], lr=0.1)
# %% cell
for x in loader():
    h = torch.zeros(1, x.size(0), 4)
    for _ in range(2):
        optimizer.zero_grad()
        out, h = rnn(x, h)
        loss = head(out).square().mean()
        loss.backward()
        optimizer.step()
        h = h.detach()

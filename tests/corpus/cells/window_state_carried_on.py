# A state that is carried from window to window, as large as the window; `h = h.detach()` cuts its graph.  idiom: window
# options: --window --dim h=1
# ignore: rows (the plain cell has larger batches)
# %% setup
import torch
from torch import nn
series = torch.randn(42, 5, 3)
rows = WINDOW
def loader():
    for start in range(0, 42 - 42 % (2 * rows), 2 * rows):
        yield series[start : start + 2 * rows]
rnn, head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 1)
optimizer = torch.optim.SGD([*rnn.parameters(), *head.parameters()], lr=0.1)
h = None
# %% cell
for i, x in enumerate(loader()):
    if i == 3:
        break
    optimizer.zero_grad()
    if h is None:
        h = torch.zeros(1, len(x), 4)
    out, h = rnn(x, h)
    loss = head(out).square().mean()
    loss.backward()
    optimizer.step()
    h = h.detach()

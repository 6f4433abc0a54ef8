# Truncated back-propagation: the hidden state of one batch starts the next.  idiom: carried-state
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
rnn = nn.RNN(3, 5, batch_first=True)
head = nn.Linear(5, 1)
optimizer = torch.optim.SGD([*rnn.parameters(), *head.parameters()], lr=0.1)
chunks = [(torch.randn(4, 6, 3), torch.randn(4, 6, 1)) for _ in range(3)]
# %% cell
h = torch.zeros(1, 4, 5)
for x, y in chunks:
    optimizer.zero_grad()
    h = h.detach()
    out, h = rnn(x, h)
    loss = F.mse_loss(head(out), y)
    loss.backward()
    optimizer.step()
# %% refused
# `h`

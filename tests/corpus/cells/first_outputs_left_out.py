# time comes first, and the loss leaves out a network's first outputs: a slice of what the step computes.  idiom: time-major
# options: --dim x=1,y=1
# %% setup
import torch
from torch import nn

x, y = torch.randn(6, 5, 3), torch.randn(4, 5, 4)
rnn, mse = nn.RNN(3, 4), nn.MSELoss()
optimizer = torch.optim.SGD(rnn.parameters(), lr=0.1)
# %% cell
burn_in = 2
for epoch in range(3):
    out, _ = rnn(x)
    loss = mse(out[burn_in:], y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

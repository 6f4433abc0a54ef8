# (seq, batch, feat) tensors straight from the generator with --dim x=1,y=1; elementwise loss.  idiom: time-major
# options: --dim x=1,y=1
# %% setup
import torch
from torch import nn
rnn, lin = nn.RNN(2, 5), nn.Linear(5, 1)
opt = torch.optim.SGD([*rnn.parameters(), *lin.parameters()], lr=.05)
def make(n=3):
    for i in range(n):
        yield torch.randn(10, 13 - 4 * (i == 2), 2), torch.randn(10, 13 - 4 * (i == 2), 1)
# %% cell
for x, y in make():
    out, h_n = rnn(x)
    y_hat = lin(out)
    loss = ((y_hat - y) ** 2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    print(round(loss.item(), 5), y_hat[-1].shape)

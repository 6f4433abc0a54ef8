# Between two backwards of one graph the weights are replaced through `.data`: the second gradient would see others.  idiom: crosses-updates
# %% setup
import torch
from torch import nn
model = nn.Linear(4, 2)
start = torch.zeros(2, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = list(zip(torch.randn(12, 4).split(5), torch.randn(12, 2).split(5)))
# %% cell
for x, y in loader:
    optimizer.zero_grad()
    out = model(x)
    loss_a = (out - y).square().mean()
    loss_b = out.abs().mean()
    loss_a.backward(retain_graph=True)
    model.weight.data = start
    loss_b.backward()
    optimizer.step()
# %% refused
# line 8: `loss_b` carries a graph that line 5 built before line 7

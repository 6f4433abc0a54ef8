# two losses of one graph, the second back-propagated every other step only.  idiom: several-backwards
# %% setup
import torch
from torch import nn

loader = torch.utils.data.DataLoader(torch.randn(23, 4), batch_size=8)
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for i, x in enumerate(loader):
    optimizer.zero_grad()
    out = model(x)
    loss = out.pow(2).mean()
    loss.backward(retain_graph=True)
    if i % 2 == 0:
        out.abs().mean().backward()
    optimizer.step()
# %% refused
# line 7: this backward and the one in line 5 share a graph

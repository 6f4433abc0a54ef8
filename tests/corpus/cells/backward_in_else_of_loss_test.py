# two losses of one graph, back-propagated in the `else` of a test on one of them; the gradients are not cleared.  idiom: several-backwards
# %% setup
import torch
from torch import nn

loader = torch.utils.data.DataLoader(torch.randn(23, 3), batch_size=6)
model = nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
with torch.no_grad():
    level = model(loader.dataset).pow(2).mean().item()
# %% cell
skipped = []
for i, x in enumerate(loader):
    out = model(x)
    loss = out.pow(2).mean()
    aux = out.abs().mean()
    if loss.item() > level:
        skipped.append(i)
    else:
        loss.backward(retain_graph=True)
        aux.backward()
    optimizer.step()
    print(i, loss.item())

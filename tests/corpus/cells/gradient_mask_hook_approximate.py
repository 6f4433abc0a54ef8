# a hook of an earlier cell masks a parameter's gradient; of any hook it holds that it sees micro-batches.  idiom: hooks
# verdict: approximate
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(torch.randn(26, 5), torch.randint(0, 3, (26,))), batch_size=8)
model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
mask = (torch.rand(8, 5) > 0.5).double()
model[0].weight.register_hook(lambda grad: grad * mask)
# %% cell
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()

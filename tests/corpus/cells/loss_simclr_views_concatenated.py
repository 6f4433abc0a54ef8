# SimCLR: both views in one call, the mask of the diagonal made for twice the batch.  idiom: loss-replay
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(torch.randn(26, 5)), batch_size=8, drop_last=True)
model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def nt_xent(z, temperature=0.5):
    n = z.shape[0] // 2
    z = F.normalize(z, dim=1)
    sim = z @ z.T / temperature
    sim.fill_diagonal_(-1e9)
    targets = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(sim, targets)
# %% cell
losses = []
for (x,) in loader:
    view1, view2 = x + 0.1, x * 0.9
    z = model(torch.cat([view1, view2], dim=0))
    loss = nt_xent(z)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

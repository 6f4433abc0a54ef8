# A second step every other batch, as StyleGAN's lazy R1: an `if i % k` with a backward of its own does not accumulate.  idiom: two-updates
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(23, 4), torch.randint(0, 3, (23,))
loader = DataLoader(TensorDataset(X, Y), batch_size=9)
# %% cell
for i, (x, y) in enumerate(loader):
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if i % 2 == 0:
        penalty = 0.1 * model(x).pow(2).mean()
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        print(penalty.item())

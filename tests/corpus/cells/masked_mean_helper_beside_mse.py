# a helper divides by the number of valid positions, beside a mean over all: its total is counted first.  idiom: several-losses
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

valid = (torch.rand(21, 4) < 0.6).double()
valid[15:19] = 0
loader = DataLoader(TensorDataset(torch.randn(21, 5), torch.randn(21, 4), valid), batch_size=8)
net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
opt = torch.optim.SGD(net.parameters(), lr=0.1)

def masked_l1(pred, target, mask):
    return ((pred - target).abs() * mask).sum() / mask.sum()
# %% cell
for x, t, mask in loader:
    pred = net(x)
    loss = masked_l1(pred, t, mask) + 0.1 * F.mse_loss(pred, t)
    opt.zero_grad()
    loss.backward()
    opt.step()
    print(loss.item())

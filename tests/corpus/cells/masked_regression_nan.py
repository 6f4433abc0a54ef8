# missing targets masked out by boolean indexing: mean over the valid entries only.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

tgt = torch.randn(16, 3); tgt[torch.rand(16, 3) < 0.3] = float("nan"); tgt[:, 0] = 1.0
loader = DataLoader(TensorDataset(torch.randn(16, 4), tgt), batch_size=6)
net = nn.Linear(4, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
# %% cell
for feats, targets in loader:
    valid = ~torch.isnan(targets)
    optimizer.zero_grad()
    preds = net(feats)
    loss = ((preds - torch.nan_to_num(targets)) ** 2 * valid).sum() / valid.sum()
    loss.backward()
    optimizer.step()
    print(valid.sum().item(), loss.item())

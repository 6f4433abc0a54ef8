# a mean term plus a summed term: two denominators in one loss.  idiom: loader-module
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(15, 4), torch.randint(0, 3, (15,))), batch_size=6)
enc, dec, head = nn.Linear(4, 3), nn.Linear(3, 4), nn.Linear(3, 3)
opt = torch.optim.SGD([*enc.parameters(), *dec.parameters(), *head.parameters()], lr=0.02)
# %% cell
for x, y in loader:
    h = torch.tanh(enc(x))
    rec_loss = F.mse_loss(dec(h), x, reduction='sum')
    cls_loss = F.cross_entropy(head(h), y)
    loss = 0.1 * rec_loss + cls_loss
    opt.zero_grad()
    loss.backward()
    opt.step()
    print(f"rec {rec_loss.item():.4f} cls {cls_loss.item():.4f}")

# two tensors of one length in the expression: the user names the batch.  idiom: full-batch
# options: --batch feats,target
# %% setup
import torch
from torch import nn

feats, target = torch.randn(15, 4), torch.randn(15, 2)
anchors = torch.randn(15, 4)
proj = nn.Linear(4, 2)
opt = torch.optim.SGD(proj.parameters(), lr=0.1)
# %% cell
for it in range(3):
    opt.zero_grad()
    bias = proj(anchors).mean(0)
    loss = (proj(feats) - target).pow(2).mean() + 0.1 * bias.pow(2).sum()
    loss.backward()
    opt.step()
loss.item()

# three heads, three backwards with retain_graph, one step.  idiom: several-backwards
# %% setup
import torch
from torch import nn
trunk = nn.Linear(5, 6); h1, h2, h3 = nn.Linear(6, 2), nn.Linear(6, 1), nn.Linear(6, 3)
params = [p for m in (trunk, h1, h2, h3) for p in m.parameters()]
opt = torch.optim.Adam(params, lr=1e-2)
ds = [dict(x=torch.randn(n, 5), cls=torch.randint(0, 2, (n,)), reg=torch.randn(n), cls3=torch.randint(0, 3, (n,))) for n in (8, 8, 8, 2)]
# %% cell
log = []
for batch in ds:
    feats = torch.tanh(trunk(batch['x']))
    opt.zero_grad()
    loss1 = nn.functional.cross_entropy(h1(feats), batch['cls'])
    loss1.backward(retain_graph=True)
    loss2 = nn.functional.mse_loss(h2(feats).squeeze(-1), batch['reg'])
    (0.5 * loss2).backward(retain_graph=True)
    loss3 = nn.functional.cross_entropy(h3(feats), batch['cls3'], reduction='sum')
    loss3.backward()
    opt.step()
    log.append([l.item() for l in (loss1, loss2, loss3)])

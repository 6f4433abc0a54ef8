# generator's step first, then the discriminator's on the detached fakes.  idiom: two-updates
# %% setup
import random
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

D, C = 6, 3
X, Y, R = torch.randn(23, D), torch.randint(0, C, (23,)), torch.randn(23)
loader = DataLoader(TensorDataset(X, Y), batch_size=9)
rloader = DataLoader(TensorDataset(X, R), batch_size=9)
sl = DataLoader(TensorDataset(torch.randn(18, 9, D), torch.randint(0, C, (18,))), batch_size=9)
model = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, C))
reg = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, 1))
rnn, rnnb, head = nn.GRU(D, 5), nn.GRU(D, 5, batch_first=True), nn.Linear(5, C)
opt = torch.optim.SGD([p for m in (model, reg, rnn, rnnb, head) for p in m.parameters()], lr=0.1)
crit = nn.CrossEntropyLoss()
G = reg
Dm = nn.Linear(1, 1)
od = torch.optim.SGD(Dm.parameters(), lr=0.1)
bce = nn.BCEWithLogitsLoss()
# %% cell
for x, r in rloader:
    valid = torch.ones(x.size(0), 1)
    fake = torch.zeros(x.size(0), 1)

    # train the generator
    opt.zero_grad()
    gen_imgs = G(x)
    g_loss = bce(Dm(gen_imgs), valid)
    g_loss.backward()
    opt.step()

    # train the discriminator
    od.zero_grad()
    real_loss = bce(Dm(r.unsqueeze(1)), valid)
    fake_loss = bce(Dm(gen_imgs.detach()), fake)
    d_loss = (real_loss + fake_loss) / 2
    d_loss.backward()
    od.step()
    print(f"[D loss: {d_loss.item():.4f}] [G loss: {g_loss.item():.4f}]")

# BCE mean plus KL sum under a GradScaler: the loss that is logged is not the one that is back-propagated.  idiom: amp
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.rand(19, 6)), batch_size=7)
enc, dec = nn.Linear(6, 4), nn.Linear(2, 6)
opt = torch.optim.SGD([*enc.parameters(), *dec.parameters()], lr=0.01)
scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
# %% cell
for epoch in range(2):
    total = 0.0
    for (x,) in loader:
        noise = torch.randn(len(x), 2)
        mu, logvar = enc(x).chunk(2, dim=1)
        recon = dec(mu + noise * (0.5 * logvar).exp())
        bce = F.binary_cross_entropy_with_logits(recon, x)
        kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        loss = bce + 1e-2 * kld
        opt.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        total += loss.item()
    print(f"{total:.8f} {bce.item():.8f} {kld.item():.8f}")

# encoder and decoder called apart, recon mean over elements + beta * KL mean over samples, terms logged.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(15, 6)), batch_size=6)
encoder = nn.Linear(6, 4)
decoder = nn.Linear(2, 6)
params = list(encoder.parameters()) + list(decoder.parameters())
opt = torch.optim.Adam(params, lr=0.01)
beta = 0.1
fixed_eps = torch.randn(6, 2)
recon_hist, kl_hist = [], []
# %% cell
for epoch in range(2):
    for (x,) in loader:
        eps = fixed_eps[:len(x)]
        mu, logvar = encoder(x).chunk(2, dim=1)
        z = mu + (0.5 * logvar).exp() * eps
        x_hat = decoder(z)
        recon = ((x_hat - x) ** 2).mean()
        kl = (-0.5 * (1 + logvar - mu ** 2 - logvar.exp()).sum(dim=1)).mean()
        loss = recon + beta * kl
        opt.zero_grad()
        loss.backward()
        opt.step()
        recon_hist.append(recon.item())
        kl_hist.append(kl.item())
print(f"recon {recon_hist[-1]:.4f} kl {kl_hist[-1]:.4f} total {loss.item():.4f}")

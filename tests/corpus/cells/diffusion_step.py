# DDPM training: t and noise drawn in the body, the noisy input built on the whole batch.  idiom: epochs-module
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

T = 20
betas = torch.linspace(1e-3, 0.2, T)
alphas_cumprod = torch.cumprod(1. - betas, axis=0)
dataloader = DataLoader(TensorDataset(torch.randn(14, 1, 4, 4)), batch_size=6, shuffle=True)
device = "cpu"

class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.temb = nn.Embedding(T, 4)
        self.inp = nn.Conv2d(1, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 1, 3, padding=1)
    def forward(self, x, t):
        return self.out(F.silu(self.inp(x) + self.temb(t)[:, :, None, None]))

model = Denoiser().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
epochs = 2
# %% cell
for epoch in range(epochs):
    for step, (x0,) in enumerate(dataloader):
        optimizer.zero_grad()
        x0 = x0.to(device)
        t = torch.randint(0, T, (x0.shape[0],), device=device).long()
        noise = torch.randn_like(x0)
        a_bar = alphas_cumprod[t].view(-1, 1, 1, 1)
        x_noisy = a_bar.sqrt() * x0 + (1 - a_bar).sqrt() * noise
        noise_pred = model(x_noisy, t)
        loss = F.mse_loss(noise_pred, noise)
        loss.backward()
        optimizer.step()

        if step == 0:
            print(f"Epoch {epoch} | step {step:03d} Loss: {loss.item()} ")

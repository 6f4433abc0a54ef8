# a VQ-VAE's codebook is a buffer that each forward pass moves: the probe leaves it, micro-batches move it more often.  idiom: state-in-the-model
# verdict: approximate
# ignore: model, loss, recon, recons, vq_loss, x_hat, <out>
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(torch.randn(26, 5)), batch_size=8)
class VQ(nn.Module):
    def __init__(self, codes=4, width=3):
        super().__init__()
        self.register_buffer('emb', torch.randn(codes, width))
        self.register_buffer('n', torch.ones(codes))
        self.register_buffer('m', self.emb.clone())
        self.enc, self.dec = nn.Linear(5, width), nn.Linear(width, 5)
    def forward(self, x):
        z = self.enc(x)
        one = F.one_hot(torch.cdist(z, self.emb).argmin(1), len(self.emb)).to(z.dtype)
        q = one @ self.emb
        if self.training:
            with torch.no_grad():
                self.n.mul_(0.9).add_(0.1 * one.sum(0))
                self.m.mul_(0.9).add_(0.1 * one.t() @ z)
                self.emb.copy_(self.m / self.n.unsqueeze(1))
        commit = F.mse_loss(q.detach(), z)
        return self.dec(z + (q - z).detach()), commit
model = VQ()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
# %% cell
recons = []
for x, in loader:
    x_hat, vq_loss = model(x)
    recon = F.mse_loss(x_hat, x)
    loss = recon + 0.25 * vq_loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    recons.append(recon.item())
sum(recons) / len(recons)

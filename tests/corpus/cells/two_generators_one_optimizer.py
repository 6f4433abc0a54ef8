# CycleGAN-like: G step with identity/cycle losses on two loaders by zip, then D_A and D_B with detach.  idiom: two-updates
# %% setup
import torch, itertools
from torch import nn
mk = lambda: nn.Linear(3, 3)
G_AB, G_BA = mk(), mk(); D_A, D_B = nn.Linear(3, 1), nn.Linear(3, 1)
opt_G = torch.optim.Adam(itertools.chain(G_AB.parameters(), G_BA.parameters()), 1e-3)
opt_D = torch.optim.Adam(itertools.chain(D_A.parameters(), D_B.parameters()), 1e-3)
la = torch.utils.data.DataLoader(torch.randn(26, 3), batch_size=8); lb = torch.utils.data.DataLoader(torch.randn(26, 3) + 1, batch_size=8)
l1, mse = nn.L1Loss(), nn.MSELoss(); lambda_cyc = 10
# %% cell
for real_A, real_B in zip(la, lb):
    valid = torch.ones((real_A.size(0), 1)); fake = torch.zeros((real_A.size(0), 1))
    # ---- generators
    opt_G.zero_grad()
    loss_id = (l1(G_BA(real_A), real_A) + l1(G_AB(real_B), real_B)) / 2
    fake_B = G_AB(real_A)
    fake_A = G_BA(real_B)
    loss_GAN = (mse(D_B(fake_B), valid) + mse(D_A(fake_A), valid)) / 2
    loss_cycle = (l1(G_BA(fake_B), real_A) + l1(G_AB(fake_A), real_B)) / 2
    loss_G = loss_GAN + lambda_cyc * loss_cycle + 5.0 * loss_id
    loss_G.backward()
    opt_G.step()
    # ---- discriminators
    opt_D.zero_grad()
    loss_DA = (mse(D_A(real_A), valid) + mse(D_A(fake_A.detach()), fake)) / 2
    loss_DB = (mse(D_B(real_B), valid) + mse(D_B(fake_B.detach()), fake)) / 2
    loss_D = loss_DA + loss_DB
    loss_D.backward()
    opt_D.step()
    print(loss_G.item(), loss_D.item())

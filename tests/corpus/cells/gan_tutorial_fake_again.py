# PyTorch's DCGAN tutorial: `fake` crosses the discriminator's update; here through an encoder as well.  idiom: two-updates
# %% setup
import torch
from torch import nn

netE = nn.Linear(3, 3)
netG = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))
netD = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1), nn.Sigmoid())
dataloader = torch.utils.data.DataLoader(torch.randn(21, 4), batch_size=8)
criterion = nn.BCELoss()
real_label, fake_label, nz = 1.0, 0.0, 3
optimizerD = torch.optim.Adam(netD.parameters(), lr=0.01, betas=(0.5, 0.999))
optimizerG = torch.optim.Adam([*netG.parameters(), *netE.parameters()], lr=0.01, betas=(0.5, 0.999))
# %% cell
G_losses, D_losses = [], []
for i, data in enumerate(dataloader, 0):
    # (1) Update D network
    netD.zero_grad()
    b_size = data.size(0)
    label = torch.full((b_size,), real_label)
    output = netD(data).view(-1)
    errD_real = criterion(output, label)
    errD_real.backward()
    D_x = output.mean().item()

    noise = torch.randn(b_size, nz)
    code = netE(noise)
    fake = netG(code)
    label.fill_(fake_label)
    output = netD(fake.detach()).view(-1)
    errD_fake = criterion(output, label)
    errD_fake.backward()
    D_G_z1 = output.mean().item()
    errD = errD_real + errD_fake
    optimizerD.step()

    # (2) Update G network
    netG.zero_grad()
    netE.zero_grad()
    label.fill_(real_label)
    output = netD(fake).view(-1)
    errG = criterion(output, label)
    errG.backward()
    D_G_z2 = output.mean().item()
    optimizerG.step()
    print(i, errD.item(), errG.item(), D_x, D_G_z1, D_G_z2)
    G_losses.append(errG.item())
    D_losses.append(errD.item())

# DCGAN's three backwards with `output` three times and one `label` changed in place; the fakes are made again.  idiom: two-updates
# %% setup
import torch
from torch import nn

netG = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))
netD = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1), nn.Sigmoid())
dataloader = torch.utils.data.DataLoader(torch.randn(21, 4), batch_size=8)
criterion = nn.BCELoss()
optimizerD = torch.optim.Adam(netD.parameters(), lr=0.01, betas=(0.5, 0.999))
optimizerG = torch.optim.Adam(netG.parameters(), lr=0.01, betas=(0.5, 0.999))
# %% cell
for i, real_cpu in enumerate(dataloader):
    netD.zero_grad()
    b_size = real_cpu.size(0)
    label = torch.full((b_size,), 1.0)
    output = netD(real_cpu).view(-1)
    errD_real = criterion(output, label)
    errD_real.backward()
    D_x = output.mean().item()

    noise = torch.randn(b_size, 3)
    fake = netG(noise)
    label.fill_(0.0)
    smooth = torch.full((b_size,), 0.1)
    output = netD(fake.detach()).view(-1)
    errD_fake = criterion(output, label) + 0.1 * criterion(output, smooth)
    errD_fake.backward()
    D_G_z1 = output.mean().item()
    errD = errD_real + errD_fake
    optimizerD.step()

    netG.zero_grad()
    label.fill_(1.0)
    fake = netG(noise)
    output = netD(fake).view(-1)
    errG = criterion(output, label)
    errG.backward()
    D_G_z2 = output.mean().item()
    optimizerG.step()
    print(i, errD.item(), errG.item(), D_x, D_G_z1, D_G_z2)

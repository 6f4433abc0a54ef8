# WGAN: a loop of critic updates with weight clipping above the generator's update, which uses the last noise.  idiom: two-updates
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

gen = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
critic = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
opt_gen = torch.optim.SGD(gen.parameters(), lr=0.05)
opt_critic = torch.optim.SGD(critic.parameters(), lr=0.05)
loader = DataLoader(TensorDataset(torch.randn(23, 2), torch.zeros(23)), batch_size=8)
# %% cell
for batch_idx, (data, _) in enumerate(loader):
    cur_batch_size = data.shape[0]
    for _ in range(3):
        noise = torch.randn(cur_batch_size, 3)
        fake = gen(noise)
        critic_real = critic(data).reshape(-1)
        critic_fake = critic(fake).reshape(-1)
        loss_critic = -(torch.mean(critic_real) - torch.mean(critic_fake))
        critic.zero_grad()
        loss_critic.backward(retain_graph=True)
        opt_critic.step()
        for p in critic.parameters():
            p.data.clamp_(-0.05, 0.05)

    gen_fake = critic(gen(noise)).reshape(-1)
    loss_gen = -torch.mean(gen_fake)
    gen.zero_grad()
    loss_gen.backward()
    opt_gen.step()
    print(f"{batch_idx}/{len(loader)} Loss D: {loss_critic:.4f}, loss G: {loss_gen:.4f}")

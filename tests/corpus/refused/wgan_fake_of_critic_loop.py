# the last `fake` of the critic's loop, graph and all, is the generator's: WGAN with retain_graph.  idiom: crosses-updates
# %% setup
import torch
from torch import nn

gen = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
critic = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
opt_gen = torch.optim.RMSprop(gen.parameters(), lr=5e-3)
opt_critic = torch.optim.RMSprop(critic.parameters(), lr=5e-3)
loader = torch.utils.data.DataLoader(torch.randn(23, 2), batch_size=8)
# %% cell
for data in loader:
    for _ in range(2):
        fake = gen(torch.randn(len(data), 3))
        loss_critic = critic(fake).mean() - critic(data).mean()
        critic.zero_grad()
        loss_critic.backward(retain_graph=True)
        opt_critic.step()
    loss_gen = -critic(fake).mean()
    gen.zero_grad()
    loss_gen.backward()
    opt_gen.step()
# %% refused
# line 8: `fake` carries a graph that line 3 built in a loop with an update of its own (line 2)

# DDPG update: critic step, then actor loss through the critic, soft updates, all in one loop.  idiom: rl
# %% setup
import torch, random
from torch import nn
import torch.nn.functional as F
import copy
actor = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1), nn.Tanh()); critic = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
actor_t, critic_t = copy.deepcopy(actor), copy.deepcopy(critic)
ao, co = torch.optim.Adam(actor.parameters(), 1e-3), torch.optim.Adam(critic.parameters(), 1e-2)
buf = [(torch.randn(3), torch.rand(1) * 2 - 1, random.random(), torch.randn(3), float(i % 7 == 0)) for i in range(40)]
# %% cell
gamma, tau = 0.99, 5e-3
for it in range(3):
    batch = random.sample(buf, 13)
    s, a, r, s2, d = map(list, zip(*batch))
    s, a, s2 = torch.stack(s), torch.stack(a), torch.stack(s2)
    r, d = torch.tensor(r)[:, None], torch.tensor(d)[:, None]

    with torch.no_grad():
        q_target = r + gamma * (1 - d) * critic_t(torch.cat([s2, actor_t(s2)], 1))
    q = critic(torch.cat([s, a], 1))
    critic_loss = F.mse_loss(q, q_target)
    co.zero_grad()
    critic_loss.backward()
    co.step()

    actor_loss = -critic(torch.cat([s, actor(s)], 1)).mean()
    ao.zero_grad()
    actor_loss.backward()
    ao.step()

    for net, tgt in ((actor, actor_t), (critic, critic_t)):
        for p, pt in zip(net.parameters(), tgt.parameters()):
            pt.data.copy_(tau * p.data + (1 - tau) * pt.data)
    print(it, critic_loss.item(), actor_loss.item())

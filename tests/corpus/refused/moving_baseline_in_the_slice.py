# REINFORCE with a moving baseline, updated from the reward of the model's own draws.  idiom: carried-state
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
policy = nn.Linear(4, 3)
optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
states = torch.randn(9, 4)
baseline = 0.0
# %% cell
for _ in range(3):
    optimizer.zero_grad()
    logp = F.log_softmax(policy(states), dim=1)
    reward = logp.detach().exp()[:, 0]
    baseline = 0.9 * baseline + 0.1 * reward.mean()
    loss = -((reward - baseline) * logp[:, 0]).mean()
    loss.backward()
    optimizer.step()
# %% refused
# line 5
# `baseline`

# a DQN update: a sampled replay batch, Q values by gather, targets under no_grad, clipped gradients.  idiom: sampling
# %% setup
import random
from collections import deque
import torch
from torch import nn

memory = deque(maxlen=100)
for _ in range(30):
    memory.append((torch.randn(4), random.randrange(2), random.random(), torch.randn(4), float(random.random() < 0.2)))
policy_net, target_net = nn.Linear(4, 2), nn.Linear(4, 2)
target_net.load_state_dict(policy_net.state_dict())
optimizer = torch.optim.AdamW(policy_net.parameters(), lr=1e-2, amsgrad=True)
BATCH_SIZE, GAMMA, TAU = 11, 0.9, 0.05
# %% cell
loss_log = []
for i_step in range(4):
    transitions = random.sample(memory, BATCH_SIZE)
    s, a, r, s2, done = zip(*transitions)
    states, next_states = torch.stack(s), torch.stack(s2)
    actions = torch.tensor(a).unsqueeze(1)
    rewards, dones = torch.tensor(r), torch.tensor(done)

    q = policy_net(states).gather(1, actions)
    with torch.no_grad():
        q_next = target_net(next_states).max(1).values
    expected = rewards + GAMMA * q_next * (1 - dones)

    loss = nn.functional.smooth_l1_loss(q, expected.unsqueeze(1))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_value_(policy_net.parameters(), 100)
    optimizer.step()
    loss_log.append(loss.item())

    for tp, pp in zip(target_net.parameters(), policy_net.parameters()):
        tp.data.mul_(1 - TAU).add_(pp.data, alpha=TAU)
print(loss_log)

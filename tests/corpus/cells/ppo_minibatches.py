# CleanRL PPO: epochs over shuffled numpy minibatch indices, normalised advantages, clipping, approx_kl and early break.  idiom: rl
# %% setup
import torch, numpy as np
from torch import nn
from torch.distributions.categorical import Categorical
class Agent(nn.Module):
    def __init__(self):
        super().__init__(); self.critic = nn.Linear(4, 1); self.actor = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    def get_action_and_value(self, x, action=None):
        probs = Categorical(logits=self.actor(x))
        if action is None: action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(x)
agent = Agent(); optimizer = torch.optim.Adam(agent.parameters(), lr=1e-3, eps=1e-5)
b_obs = torch.randn(26, 4); b_actions = torch.randint(0, 3, (26,)); b_logprobs = -torch.rand(26) - .5
b_advantages = torch.randn(26); b_returns = torch.randn(26); b_values = torch.randn(26)
batch_size, minibatch_size, update_epochs, clip_coef, ent_coef, vf_coef, max_grad_norm, target_kl = 26, 9, 2, 0.2, 0.01, 0.5, 0.5, None
norm_adv, clip_vloss = True, True
# %% cell
b_inds = np.arange(batch_size)
clipfracs = []
for epoch in range(update_epochs):
    np.random.shuffle(b_inds)
    for start in range(0, batch_size, minibatch_size):
        end = start + minibatch_size
        mb_inds = b_inds[start:end]

        _, newlogprob, entropy, newvalue = agent.get_action_and_value(b_obs[mb_inds], b_actions.long()[mb_inds])
        logratio = newlogprob - b_logprobs[mb_inds]
        ratio = logratio.exp()

        with torch.no_grad():
            # calculate approx_kl http://joschu.net/blog/kl-approx.html
            old_approx_kl = (-logratio).mean()
            approx_kl = ((ratio - 1) - logratio).mean()
            clipfracs += [((ratio - 1.0).abs() > clip_coef).double().mean().item()]

        mb_advantages = b_advantages[mb_inds]
        if norm_adv:
            mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + 1e-8)

        # Policy loss
        pg_loss1 = -mb_advantages * ratio
        pg_loss2 = -mb_advantages * torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)
        pg_loss = torch.max(pg_loss1, pg_loss2).mean()

        # Value loss
        newvalue = newvalue.view(-1)
        if clip_vloss:
            v_loss_unclipped = (newvalue - b_returns[mb_inds]) ** 2
            v_clipped = b_values[mb_inds] + torch.clamp(newvalue - b_values[mb_inds], -clip_coef, clip_coef)
            v_loss_clipped = (v_clipped - b_returns[mb_inds]) ** 2
            v_loss_max = torch.max(v_loss_unclipped, v_loss_clipped)
            v_loss = 0.5 * v_loss_max.mean()
        else:
            v_loss = 0.5 * ((newvalue - b_returns[mb_inds]) ** 2).mean()

        entropy_loss = entropy.mean()
        loss = pg_loss - ent_coef * entropy_loss + v_loss * vf_coef

        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), max_grad_norm)
        optimizer.step()

    if target_kl is not None and approx_kl > target_kl:
        break

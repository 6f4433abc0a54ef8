# t drawn in the body, noise drawn in a q_sample helper, loss by a get_loss that calls the model.  idiom: loader-module
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

timesteps = 10
abar = torch.cumprod(1 - torch.linspace(1e-2, 0.3, timesteps), 0)

def q_sample(x_start, t, noise):
    s = abar.gather(-1, t).reshape(-1, 1)
    return s.sqrt() * x_start + (1 - s).sqrt() * noise

def p_losses(denoise_model, x_start, t, noise=None, loss_type="l1"):
    x_noisy = q_sample(x_start=x_start, t=t, noise=noise)
    predicted_noise = denoise_model(torch.cat([x_noisy, t[:, None] / timesteps], 1))
    if loss_type == 'l1':
        return F.l1_loss(noise, predicted_noise)
    return F.smooth_l1_loss(noise, predicted_noise)

loader = DataLoader(TensorDataset(torch.randn(17, 2)), batch_size=7)
denoiser = nn.Sequential(nn.Linear(3, 10), nn.GELU(), nn.Linear(10, 2))
optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-2)
# %% cell
for step, batch in enumerate(loader):
    optimizer.zero_grad()

    batch_size = batch[0].shape[0]
    points = batch[0]

    # Algorithm 1 line 3: sample t uniformally for every example in the batch
    t = torch.randint(0, timesteps, (batch_size,)).long()
    eps = torch.randn_like(points)

    loss = p_losses(denoiser, points, t, noise=eps, loss_type="huber")
    print("Loss:", loss.item())

    loss.backward()
    optimizer.step()

# the noise of a diffusion model comes from an object of a class in the cell, made where the loop stands.  idiom: epochs-def
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x, t):
        return self.layer(torch.cat([x, t[:, None].to(x) / 10], 1))

model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
dataloader = DataLoader(TensorDataset(torch.randn(14, 5), torch.randint(0, 3, (14,))), batch_size=8)
# %% cell
class Diffusion:
    def __init__(self, noise_steps=10, beta_start=1e-4, beta_end=0.02):
        self.noise_steps = noise_steps
        beta = torch.linspace(beta_start, beta_end, noise_steps)
        self.alpha_hat = torch.cumprod(1.0 - beta, dim=0)

    def noise_images(self, x, t):
        noise = torch.randn_like(x)
        return self.alpha_hat[t].sqrt()[:, None] * x + (1 - self.alpha_hat[t]).sqrt()[:, None] * noise, noise

    def sample_timesteps(self, n):
        return torch.randint(low=1, high=self.noise_steps, size=(n,))

def train(epochs):
    mse = nn.MSELoss()
    diffusion = Diffusion(noise_steps=8)
    for epoch in range(epochs):
        for images, _ in dataloader:
            t = diffusion.sample_timesteps(images.shape[0])
            x_t, noise = diffusion.noise_images(images, t)
            loss = mse(noise, model(x_t, t))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(loss.item())

train(2)

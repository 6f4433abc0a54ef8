# a step function is given its encoder and decoder: `decoder(z)` is no call that fetches a batch.  idiom: step-function
# %% setup
import torch
from torch import nn

loader = [torch.randn(5, 4), torch.randn(5, 4), torch.randn(3, 4)]
encoder, decoder = nn.Sequential(nn.Linear(4, 2), nn.Tanh()), nn.Linear(2, 4)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-2)
# %% cell
def train_step(encoder, decoder, x, optimizer):
    optimizer.zero_grad()
    z = encoder(x)
    x_hat = decoder(z)
    loss = ((x_hat - x) ** 2).mean()
    loss.backward()
    optimizer.step()
    return loss.item()

history = [train_step(encoder, decoder, x, optimizer) for x in loader]

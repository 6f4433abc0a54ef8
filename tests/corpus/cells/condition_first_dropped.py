# condition_dropped_at_random, where the first batch has none.  idiom: random-draws
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import random
class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.emb = nn.Linear(4, 4), nn.Embedding(3, 4)
    def forward(self, x, cond=None):
        return self.net(x if cond is None else x + self.emb(cond))
model = Denoiser()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(23, 4), torch.randint(0, 3, (23,))), batch_size=5)
# %% cell
for x, cond in loader:
    noise = torch.randn_like(x)
    if random.random() < 0.5:
        cond = None
    loss = F.mse_loss(model(x + noise, cond), noise)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(cond is None, loss.item())

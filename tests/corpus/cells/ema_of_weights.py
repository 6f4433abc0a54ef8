# an exponential moving average copy of the model updated after each step.  idiom: loader-module
# %% setup
import copy
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(16, 3), torch.randn(16, 2)), batch_size=6)
model = nn.Linear(3, 2)
ema_model = copy.deepcopy(model).eval().requires_grad_(False)
opt = torch.optim.Adam(model.parameters(), lr=0.1)
ema_decay, smooth = 0.9, None
# %% cell
for x, y in loader:
    loss = nn.functional.mse_loss(model(x), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    smooth = loss.item() if smooth is None else 0.9 * smooth + 0.1 * loss.item()
    with torch.no_grad():
        for p_ema, p in zip(ema_model.parameters(), model.parameters()):
            p_ema.mul_(ema_decay).add_(p, alpha=1 - ema_decay)
print(f"{smooth:.5f}")

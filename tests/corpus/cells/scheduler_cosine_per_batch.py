# CosineAnnealingLR stepped after each optimizer step, get_last_lr printed.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(19, 3), torch.randn(19, 3)), batch_size=5)
model = nn.Linear(3, 3, bias=False)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(loader))
# %% cell
for i, (x, y) in enumerate(loader):
    loss = torch.nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    scheduler.step()
    print(f"{i:3d} lr {scheduler.get_last_lr()[0]:.5f} loss {loss.item():.5f}")

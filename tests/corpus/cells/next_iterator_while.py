# an endless iterator: `while step < n: x, y = next(it)`.  idiom: sampling
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

dl = DataLoader(TensorDataset(torch.randn(13, 5), torch.randn(13, 1)), batch_size=5, shuffle=True)

def cycle(dl):
    while True:
        for batch in dl:
            yield batch

it = cycle(dl)
model = nn.Sequential(nn.Linear(5, 8), nn.Mish(), nn.Linear(8, 1))
opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
step, train_num_steps = 0, 5
# %% cell
while step < train_num_steps:
    x, y = next(it)
    loss = torch.nn.functional.mse_loss(model(x), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    step += 1
    if step % 2 == 0:
        print(f'{step}: {loss.item():.5f}')

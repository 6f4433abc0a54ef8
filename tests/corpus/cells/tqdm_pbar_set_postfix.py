# pbar = tqdm(loader) outside the for, pbar.set_postfix(loss=loss.item()) inside.  idiom: epochs-module
# ignore: pbar (a bar holds clock times)
# %% setup
import torch
from torch import nn
from tqdm import tqdm
from torch.utils.data import DataLoader, TensorDataset

train_dl = DataLoader(TensorDataset(torch.rand(19, 8), torch.rand(19, 8)), batch_size=7, shuffle=True)
ae = nn.Sequential(nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 8), nn.Sigmoid())
optim = torch.optim.RMSprop(ae.parameters(), lr=1e-2)
loss_fn = nn.BCELoss()
# %% cell
for epoch in range(2):
    pbar = tqdm(train_dl, disable=True)
    pbar.set_description(f"epoch {epoch + 1}")
    running = 0.0
    for step, (xb, yb) in enumerate(pbar, 1):
        rec = ae(xb)
        loss = loss_fn(rec, yb)
        loss.backward()
        optim.step()
        optim.zero_grad()
        running += loss.item()
        pbar.set_postfix(loss=loss.item(), avg=running / step)
print(running / step)

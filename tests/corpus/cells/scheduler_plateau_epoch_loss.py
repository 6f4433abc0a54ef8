# ReduceLROnPlateau on the epoch's mean loss: a wrong loss changes the learning rate.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

dl = DataLoader(TensorDataset(torch.randn(17, 2), torch.randn(17, 1)), batch_size=6, shuffle=True)
model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
lr_sched = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode='min', factor=0.5, patience=0)
# %% cell
lr_hist = []
for epoch in range(4):
    epoch_losses = []
    for inputs, targets in dl:
        optimizer.zero_grad()
        preds = model(inputs)
        loss = nn.functional.l1_loss(preds, targets)
        loss.backward()
        optimizer.step()
        epoch_losses.append(loss.item())
    mean_loss = sum(epoch_losses) / len(epoch_losses)
    lr_sched.step(mean_loss)
    lr_hist.append(optimizer.param_groups[0]['lr'])
    print(f"{epoch} loss {mean_loss:.4f} lr {lr_hist[-1]}")

# one branch back-propagates through a scaler, clips and steps, the other without; both for the loss above.  idiom: backward-in-branches
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(23, 4), torch.randint(0, 3, (23,))), batch_size=8)
model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scalers = [None, torch.amp.GradScaler("cpu", init_scale=8.0)]
# %% cell
for scaler in scalers:
    for step, (images, targets) in enumerate(loader):
        loss = nn.functional.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        if scaler is not None:
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward(retain_graph=False)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
        if step % 2 == 0:
            print(step, loss.item())

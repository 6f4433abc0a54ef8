# `if use_amp:` around a whole step, forward pass included, and another whole step in its `else`.  idiom: backward-in-branches
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(23, 4), torch.randint(0, 3, (23,))), batch_size=8)
model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
criterion = nn.CrossEntropyLoss()
# %% cell
for epoch in range(2):
    use_amp = epoch == 1
    running_loss = 0.0
    for images, labels in loader:
        optimizer.zero_grad()
        if use_amp:
            with torch.autocast("cpu", enabled=False):
                outputs = model(images)
                loss = criterion(outputs, labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            outputs = model(images)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
        running_loss += loss.item()
        hits = (outputs.argmax(1) == labels).sum().item()
    print(epoch, running_loss, hits)

# `del loss, out` at the end of the body to free memory, empty_cache per epoch.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(15, 3), torch.randint(0, 2, (15,))), batch_size=6)
model = nn.Linear(3, 2)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
criterion = nn.CrossEntropyLoss()
# %% cell
epoch_losses = []
for epoch in range(2):
    running = 0
    for xb, yb in loader:
        out = model(xb)
        loss = criterion(out, yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss.item()
        del loss, out, xb, yb
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    epoch_losses.append(running / len(loader))
print(epoch_losses)

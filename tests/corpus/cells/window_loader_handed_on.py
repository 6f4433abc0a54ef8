# The cell divides by the length of the loader that it hands to the function that trains, which hands it on.  idiom: window
# options: --window
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def train_epoch(model, data_loader, optimizer):
    total = 0
    for x, y in data_loader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total

def run(loader, epochs):
    return [train_epoch(model, loader, optimizer) / len(loader) for _ in range(epochs)]

train_loader = DataLoader(TensorDataset(torch.randn(43, 6), torch.randn(43, 1)), batch_size=4 * WINDOW)
valid_loader = DataLoader(TensorDataset(torch.randn(9, 6), torch.randn(9, 1)), batch_size=4)
model = nn.Linear(6, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
history = run(train_loader, epochs=2)
counts = len(train_loader), len(valid_loader)
# %% later
total = sum(len(x) for x, _ in train_loader)

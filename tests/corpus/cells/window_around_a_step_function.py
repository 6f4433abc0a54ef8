# The loop over the loader is in `fit` of another cell, the backward in a function that it calls: both are rewritten.  idiom: window
# options: --window
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def train_step(xb, yb):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(xb), yb)
    loss.backward()
    optimizer.step()
    return loss.item()

def fit(epochs, loader):
    history = []
    for epoch in range(epochs):
        losses = [train_step(xb, yb) for xb, yb in loader]
        history.append(sum(losses) / len(loader))
    return history

train_loader = DataLoader(TensorDataset(torch.randn(43, 6), torch.randn(43, 1)), batch_size=4 * WINDOW)
model = nn.Linear(6, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
history = fit(2, loader=train_loader)
per_epoch = len(train_loader)
# %% later
after = len(train_loader.dataset)

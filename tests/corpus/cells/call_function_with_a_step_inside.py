# The function that the cell calls defines its step inside itself, and a function of its own evaluates.  idiom: follow-the-call
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def train(model, loader, epochs=2):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    count = 0

    def step(x, y):
        nonlocal count
        count += 1
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    @torch.no_grad()
    def evaluate():
        return sum(nn.functional.mse_loss(model(x), y).item() for x, y in loader) / len(loader)

    history = [(sum(step(x, y) for x, y in loader), evaluate()) for _ in range(epochs)]
    return history, count

loader = DataLoader(TensorDataset(torch.randn(26, 6), torch.randn(26, 1)), batch_size=8)
model = nn.Linear(6, 1)
# %% cell
history, count = train(model, loader)

# train_step(x, y) returning the loss, defined in the cell and called from a loop below it.  idiom: step-function
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(19, 3), torch.randn(19, 1)), batch_size=8)
model = nn.Sequential(nn.Linear(3, 6), nn.ELU(), nn.Linear(6, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
loss_fn = nn.SmoothL1Loss()
losses = []
# %% cell
def train_step(x, y):
    # Sets model to TRAIN mode
    model.train()
    # Makes predictions
    yhat = model(x)
    # Computes loss
    loss = loss_fn(y, yhat)
    # Computes gradients
    loss.backward()
    # Updates parameters and zeroes gradients
    optimizer.step()
    optimizer.zero_grad()
    # Returns the loss
    return loss.item()

for x_batch, y_batch in loader:
    loss = train_step(x_batch, y_batch)
    losses.append(loss)

print(losses)

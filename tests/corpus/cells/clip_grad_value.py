# clip_grad_value_ in a train function, elementwise: wrong if done per micro-batch.  idiom: loader-def
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

dl = DataLoader(TensorDataset(torch.randn(17, 4) * 3, torch.randn(17, 1) * 5), batch_size=6)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
# %% cell
def train_epoch(model, dl, optimizer, clip_value=0.5):
    model.train()
    total_loss = 0
    for xb, yb in dl:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(xb), yb)
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), clip_value)
        optimizer.step()
        total_loss += loss.item()
    return total_loss / len(dl)

train_epoch(model, dl, optimizer)

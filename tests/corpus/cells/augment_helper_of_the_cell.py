# an augmentation defined in the cell itself flips, adds noise and standardises: once, on the whole batch.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(13, 4), torch.randint(0, 3, (13,))), batch_size=5)
model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
device = torch.device("cpu")
# %% cell
sigma = 0.1

def flip(x):
    return x.flip(1) if torch.rand(1).item() < 0.5 else x

def augment(x, device):
    x = flip(x).to(device) + sigma * torch.randn_like(x)
    return (x - x.mean(0)) / (x.std(0) + 1e-6)

for epoch in range(2):
    for x, y in loader:
        x = augment(x, device)
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

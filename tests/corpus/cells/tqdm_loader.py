# for x, y in tqdm(loader): a bar around the loader, desc per epoch.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from tqdm import tqdm
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(17, 3), torch.randn(17, 1)), batch_size=6)
model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))
opt = torch.optim.Adam(model.parameters(), lr=0.01)
criterion = nn.MSELoss()
# %% cell
all_losses = []
for epoch in range(2):
    for x, y in tqdm(loader, desc=f"Epoch {epoch}", disable=True):
        opt.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        opt.step()
        all_losses.append(loss.item())
sum(all_losses) / len(all_losses)

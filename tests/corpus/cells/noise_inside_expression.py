# model(x + 0.1 * torch.randn_like(x)): the draw stands inside the model's argument.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(16, 5), torch.randint(0, 3, (16,))), batch_size=6)
model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
opt = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
# %% cell
for epoch in range(2):
    for x, y in loader:
        opt.zero_grad()
        loss = criterion(model(x + 0.1 * torch.randn_like(x)), y)
        loss.backward()
        opt.step()
    print(epoch, loss.item())

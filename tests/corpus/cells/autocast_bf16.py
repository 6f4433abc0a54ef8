# torch.autocast('cpu', bfloat16) around forward and loss, backward outside.  idiom: epochs-module
# rtol: 2e-2
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

train_loader = DataLoader(TensorDataset(torch.randn(22, 8).float(), torch.randint(0, 4, (22,))), batch_size=8)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).float()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
criterion = nn.CrossEntropyLoss()
# %% cell
losses = []
for epoch in range(2):
    for data, target in train_loader:
        optimizer.zero_grad()
        with torch.autocast(device_type="cpu", dtype=torch.bfloat16):
            output = model(data)
            loss = criterion(output, target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

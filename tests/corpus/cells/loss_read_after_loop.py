# the loss is only read after both loops, with .data and a plain print.  idiom: epochs-module
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

dataset = TensorDataset(torch.randn(13, 2), torch.randn(13, 1))
loader = DataLoader(dataset, batch_size=5, shuffle=True)
model = nn.Linear(2, 1)
criterion = nn.MSELoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
# %% cell
for epoch in range(3):
    for i, (x, y) in enumerate(loader):
        y_hat = model(x)
        loss = criterion(y_hat, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

final_loss = loss.data
print('final loss', float(final_loss), 'after', i + 1, 'batches')

# dropout: the same law with other random numbers, so the verdict stays and the values are not compared.  idiom: epochs-module
# ignore: model, optimizer, loss (dropout draws per micro-batch)
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(18, 5), torch.randint(0, 3, (18,))), batch_size=7)
model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
criterion = nn.CrossEntropyLoss()
# %% cell
model.train()
steps = 0
for epoch in range(2):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        steps += 1

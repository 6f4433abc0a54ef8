# `pos_weight` of the whole batch, and a criterion made with it behind the forward pass; it is used again later.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(23, 5), (torch.arange(23) % 3 == 0).double()), batch_size=8)
model = nn.Linear(5, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for epoch in range(2):
    for features, target in loader:
        output = model(features).squeeze(1)
        pos_weight = (target == 0).sum() / (target == 1).sum().clamp(min=1)
        criterion = nn.BCEWithLogitsLoss(pos_weight=pos_weight)
        loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
# %% later
val = criterion(model(torch.ones(3, 5)).squeeze(1), torch.ones(3)).item()

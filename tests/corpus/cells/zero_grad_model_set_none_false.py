# model.zero_grad() in one place and set_to_none=False: the gradients stay zero tensors.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

data_loader = DataLoader(TensorDataset(torch.randn(14, 4), torch.randn(14)), batch_size=5)
regressor = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
optimizer = torch.optim.SGD(regressor.parameters(), lr=0.02, weight_decay=1e-3)
# %% cell
for epoch in range(2):
    for features, price in data_loader:
        regressor.zero_grad(set_to_none=False)
        predicted = regressor(features).squeeze(1)
        loss = nn.functional.mse_loss(predicted, price)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    print(f'epoch {epoch}: last batch loss = {loss.item():.4f}')
grad_sum = sum(p.grad.abs().sum().item() for p in regressor.parameters())

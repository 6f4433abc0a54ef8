# loss.detach() appended, float(loss) summed, loss.data printed, loss.cpu().numpy() kept.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(14, 2), torch.randn(14, 1)), batch_size=5)
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()
detached, summed, arrays = [], 0.0, []
# %% cell
for epoch in range(2):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        detached.append(loss.detach())
        summed += float(loss)
        arrays.append(loss.detach().cpu().numpy())
    print(epoch, loss.data, summed)
torch.stack(detached).mean()

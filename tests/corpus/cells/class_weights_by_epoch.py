# deferred re-weighting: a criterion with other class weights in each epoch.  idiom: epochs-module
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(torch.randn(26, 5), torch.randint(0, 3, (26,))), batch_size=8)
model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for epoch in range(3):
    per_cls_weights = torch.tensor([1.0, 1.0 + epoch, 1.0 + 2 * epoch])
    criterion = nn.CrossEntropyLoss(weight=per_cls_weights)
    running_loss = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        running_loss += loss.item() * len(y)
    print(epoch, running_loss / 26)

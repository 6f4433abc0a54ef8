# attributes of the model and of the criterion are set in the step: plain numbers, but not names of the step's own.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.l, self.tau = nn.Linear(4, 3), 2.0

    def forward(self, x):
        return self.l(x) / self.tau


loader = DataLoader(TensorDataset(torch.randn(23, 4), torch.randint(0, 3, (23,))), batch_size=8)
model, criterion = Net(), nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for x, y in loader:
    model.tau = 0.5
    criterion.label_smoothing = 0.2
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.tau = 1.0
with torch.no_grad():
    print(loss.item(), criterion(model(torch.ones(3, 4)), torch.tensor([0, 1, 2])).item())

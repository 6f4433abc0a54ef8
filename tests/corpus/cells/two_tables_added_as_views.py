# Two tables of positions are added as views of one shape: PyTorch lets both keep the one gradient that they get, and adds to it twice in a loop written by hand.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.learnt, self.given = (nn.Parameter(0.1 * torch.randn(5, 4)) for _ in range(2))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        positions = self.learnt.unsqueeze(0) + self.given.unsqueeze(0)
        return self.head(torch.tanh(x + positions)).mean(1)


loader = DataLoader(TensorDataset(torch.randn(23, 5, 4), torch.randint(0, 3, (23,))), batch_size=8)
model, criterion = Tagger(), nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for epoch in range(2):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())

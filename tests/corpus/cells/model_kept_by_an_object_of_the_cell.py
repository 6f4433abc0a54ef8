# an object of a class in the cell keeps the model, and drops out inputs before it asks it.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(13, 4), torch.randint(0, 3, (13,))), batch_size=5)
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
# %% cell
class Classifier:
    def __init__(self):
        self.net = model

    def scores(self, x):
        return self.net(x.clamp(-1, 1))

classifier = Classifier()
for epoch in range(2):
    for x, y in loader:
        loss = criterion(classifier.scores(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

# a trainer's `fit` calls its own `step`: `super()`, a private name and `self.` stay what they are.  idiom: follow-the-call
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Base:
    def log(self, value):
        self.logged = getattr(self, "logged", []) + [value]

class Trainer(Base):
    def __init__(self, model, lr=0.1):
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        self.criterion = nn.CrossEntropyLoss()
        self.__steps = 0

    def log(self, value):
        super().log(round(value, 6))

    def step(self, inputs, targets):
        self.__steps += 1
        self.optimizer.zero_grad()
        outputs = self.model(inputs)
        loss = self.criterion(outputs, targets)
        loss.backward()
        self.optimizer.step()
        self.log(loss.item())
        return (outputs.argmax(dim=1) == targets).sum().item()

    def fit(self, loader, epochs):
        for _ in range(epochs):
            correct = 0
            for inputs, targets in loader:
                correct += self.step(inputs, targets)
        return correct

x, y = torch.randn(26, 6), torch.randint(0, 3, (26,))
loader = DataLoader(TensorDataset(x, y), batch_size=8)
model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
# %% cell
trainer = Trainer(model, lr=0.05)
correct = trainer.fit(loader, epochs=2)
# %% later
trainer.step(x, y)

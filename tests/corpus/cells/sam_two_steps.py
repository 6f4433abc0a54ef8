# sharpness-aware minimisation: the optimizer's first step between two backwards is not called `step`.  idiom: several-backwards
# %% setup
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class SAM(torch.optim.SGD):
    @torch.no_grad()
    def first_step(self, zero_grad=False):
        self.moved = []
        for p in self.param_groups[0]["params"]:
            self.moved.append(0.05 * p.grad / (p.grad.norm() + 1e-12))
            p.add_(self.moved[-1])
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        for p, moved in zip(self.param_groups[0]["params"], self.moved):
            p.sub_(moved)
        self.step()
        if zero_grad:
            self.zero_grad()


loader = DataLoader(TensorDataset(torch.randn(23, 4), torch.randint(0, 3, (23,))), batch_size=8)
model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
optimizer = SAM(model.parameters(), lr=0.1)
# %% cell
for inputs, targets in loader:
    predictions = model(inputs)
    loss = F.cross_entropy(predictions, targets, label_smoothing=0.1)
    loss.backward()
    optimizer.first_step(zero_grad=True)

    F.cross_entropy(model(inputs), targets, label_smoothing=0.1).backward()
    optimizer.second_step(zero_grad=True)
    print(loss.item(), (predictions.argmax(1) == targets).sum().item())

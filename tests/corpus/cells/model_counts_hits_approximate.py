# the model counts its hits in attributes of its own: right at the end, but not after each step, so no promise.  idiom: state-in-the-model
# verdict: approximate
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(torch.randn(26, 5), torch.randint(0, 3, (26,))), batch_size=8)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(5, 3)
        self.correct = self.total = 0
    def forward(self, x, y=None):
        out = self.l(x)
        if y is None:
            return out
        self.correct += (out.argmax(1) == y).sum().item()
        self.total += len(y)
        return F.cross_entropy(out, y)
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for epoch in range(2):
    model.correct = model.total = 0
    for x, y in loader:
        loss = model(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f'{model.correct}/{model.total}')

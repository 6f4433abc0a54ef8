# A function declares its predictions global, and the next cell reads them.  idiom: step-function
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(23, 4), torch.randint(0, 3, (23,))
loader = DataLoader(TensorDataset(X, Y), batch_size=9)

outputs = None
# %% cell
def train_epoch():
    global outputs
    for x, y in loader:
        optimizer.zero_grad()
        outputs = model(x)
        loss = F.cross_entropy(outputs, y)
        loss.backward()
        optimizer.step()

train_epoch()
# %% later
print(outputs.argmax(1).tolist())

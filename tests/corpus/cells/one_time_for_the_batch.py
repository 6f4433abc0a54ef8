# One time drawn for the whole batch is the model's first argument: the loader's names are the batch all the same.  idiom: random-draws
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(5, 4)
    def forward(self, t, x):
        return self.net(torch.cat([x, t.expand(len(x), 1)], 1))
model = Denoiser()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
device = torch.device("cpu")
loader = DataLoader(TensorDataset(torch.randn(11, 4), torch.randn(11, 4)), batch_size=4)
# %% cell
for x, target in loader:
    x, target = x.to(device), target.to(device)
    t = torch.rand(1)
    loss = F.mse_loss(model(t, x), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(t.item(), loss.item())

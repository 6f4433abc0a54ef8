# A step function tosses a coin with random(): that draws no batch.  idiom: follow-the-call
# %% setup
import torch, random
from torch import nn, optim
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
def step(x, y):
    coin = random.random() < 0.5
    out = model(x) if coin else model(2 * x)
    loss = F.mse_loss(out, y)
    opt.zero_grad(); loss.backward(); opt.step()
    return loss.item()
loader = DataLoader(TensorDataset(torch.randn(26, 6), torch.randn(26, 1)), batch_size=8)
model = nn.Linear(6, 1); opt = optim.SGD(model.parameters(), 0.1)
# %% cell
ls = [step(x, y) for x, y in loader]

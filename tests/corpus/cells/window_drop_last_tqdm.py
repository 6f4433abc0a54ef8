# A short last window is dropped under drop_last; tqdm's total is right, also through a bar with a name.  idiom: window
# options: --window
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm
data = TensorDataset(torch.randn(45, 6), torch.randn(45, 1))
loader = DataLoader(data, batch_size=2 * WINDOW, drop_last=True)
model = nn.Linear(6, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.05)
losses = []
# %% cell
loop = tqdm(enumerate(loader), total=len(loader), leave=False, disable=True)
total = loop.total
for batch_idx, (x, y) in loop:
    loss = nn.functional.mse_loss(model(x), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    losses.append(loss.item())
    loop.set_postfix(loss=loss.item())
count = batch_idx + 1

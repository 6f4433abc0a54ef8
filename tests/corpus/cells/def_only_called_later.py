# the cell only defines the training function; a later cell calls it.  idiom: epochs-def
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

ds = TensorDataset(torch.randn(17, 5), torch.randn(17, 2))
dl = DataLoader(ds, batch_size=7, shuffle=True)
net = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 2))
# %% cell
def fit(net, dl, epochs=2, lr=1e-2):
    opt = torch.optim.AdamW(net.parameters(), lr=lr)
    mse = nn.MSELoss()
    hist = []
    for ep in range(epochs):
        total = 0
        for xb, yb in dl:
            opt.zero_grad()
            loss = mse(net(xb), yb)
            loss.backward()
            opt.step()
            total += loss.item()
        hist.append(total / len(dl))
    return hist
# %% later
history = fit(net, dl)
print("final", round(history[-1], 4))

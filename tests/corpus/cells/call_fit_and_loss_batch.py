# the cell only calls `fit`, which calls `loss_batch`, where the backward is.  idiom: follow-the-call
# %% setup
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def loss_batch(model, loss_func, xb, yb, opt=None):
    loss = loss_func(model(xb), yb)

    if opt is not None:
        loss.backward()
        opt.step()
        opt.zero_grad()

    return loss.item(), len(xb)

def fit(epochs, model, loss_func, opt, train_dl, valid_dl):
    history = []
    for epoch in range(epochs):
        model.train()
        for xb, yb in train_dl:
            loss_batch(model, loss_func, xb, yb, opt)
        model.eval()
        with torch.no_grad():
            losses, nums = zip(*[loss_batch(model, loss_func, xb, yb) for xb, yb in valid_dl])
        history.append(sum(l * n for l, n in zip(losses, nums)) / sum(nums))
    return history

x, y = torch.randn(26, 6), torch.randint(0, 3, (26,))
train_dl = DataLoader(TensorDataset(x[:20], y[:20]), batch_size=8)
valid_dl = DataLoader(TensorDataset(x[20:], y[20:]), batch_size=4)
model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
opt = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
# %% cell
history = fit(2, model, F.cross_entropy, opt, train_dl, valid_dl)
print(history[-1])

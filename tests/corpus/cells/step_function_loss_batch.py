# loss_batch with `opt=None`: backward under `if opt is not None`, fit() calls it for train and valid.  idiom: step-function
# %% setup
import torch
import numpy as np
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import TensorDataset, DataLoader

x_train, y_train = torch.randn(22, 7), torch.randint(0, 4, (22,))
x_valid, y_valid = torch.randn(9, 7), torch.randint(0, 4, (9,))
train_dl = DataLoader(TensorDataset(x_train, y_train), batch_size=8, shuffle=True)
valid_dl = DataLoader(TensorDataset(x_valid, y_valid), batch_size=16)
loss_func = F.cross_entropy

def get_model():
    model = nn.Linear(7, 4)
    return model, optim.SGD(model.parameters(), lr=0.5, momentum=0.9)

model, opt = get_model()
epochs = 2
# %% cell
def loss_batch(model, loss_func, xb, yb, opt=None):
    loss = loss_func(model(xb), yb)

    if opt is not None:
        loss.backward()
        opt.step()
        opt.zero_grad()

    return loss.item(), len(xb)

def fit(epochs, model, loss_func, opt, train_dl, valid_dl):
    for epoch in range(epochs):
        model.train()
        for xb, yb in train_dl:
            loss_batch(model, loss_func, xb, yb, opt)

        model.eval()
        with torch.no_grad():
            losses, nums = zip(*[loss_batch(model, loss_func, xb, yb) for xb, yb in valid_dl])
        val_loss = np.sum(np.multiply(losses, nums)) / np.sum(nums)

        print(epoch, val_loss)

fit(epochs, model, loss_func, opt, train_dl, valid_dl)

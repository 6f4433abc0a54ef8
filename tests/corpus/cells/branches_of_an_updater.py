# d2l's train_epoch_ch3: the mean and `updater.step()`, or the sum and `updater(batch_size)`.  idiom: backward-in-branches
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

train_iter = DataLoader(TensorDataset(torch.randn(23, 4), torch.randint(0, 3, (23,))), batch_size=8)
net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
loss = nn.CrossEntropyLoss(reduction="none")
trainer = torch.optim.SGD(net.parameters(), lr=0.1)


def sgd(batch_size):
    with torch.no_grad():
        for param in net.parameters():
            param -= 0.1 * param.grad / batch_size
            param.grad.zero_()
# %% cell
def train_epoch_ch3(net, train_iter, loss, updater):
    total = 0.0
    for X, y in train_iter:
        y_hat = net(X)
        l = loss(y_hat, y)
        if isinstance(updater, torch.optim.Optimizer):
            updater.zero_grad()
            l.mean().backward()
            updater.step()
        else:
            l.sum().backward()
            updater(X.shape[0])
        total += float(l.sum())
    return total / 23


trainer.zero_grad()
print(train_epoch_ch3(net, train_iter, loss, sgd))
print(train_epoch_ch3(net, train_iter, loss, trainer))

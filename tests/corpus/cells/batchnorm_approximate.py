# a small CNN with BatchNorm in training mode: the statistics are per micro-batch.  idiom: epochs-module
# verdict: approximate
# ignore: model, opt (the statistics differ, so do the gradients)
# rtol: 2e-1
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

train_dl = DataLoader(TensorDataset(torch.randn(20, 1, 5, 5), torch.randint(0, 2, (20,))), batch_size=8)
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
loss_func = nn.CrossEntropyLoss()
opt = torch.optim.SGD(model.parameters(), lr=0.02)
# %% cell
for epoch in range(2):
    model.train()
    for xb, yb in train_dl:
        pred = model(xb)
        loss = loss_func(pred, yb)
        opt.zero_grad()
        loss.backward()
        opt.step()

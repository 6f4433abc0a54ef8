# a step made by a factory in an earlier cell closes over its model and optimizer.  idiom: follow-the-call
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def make_train_step(model, loss_fn, optimizer):
    def perform_train_step(x, y):
        model.train()
        yhat = model(x)
        loss = loss_fn(yhat, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()
    return perform_train_step

x, y = torch.randn(26, 1), torch.randn(26, 1)
train_loader = DataLoader(TensorDataset(x, y), batch_size=8)
model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
train_step_fn = make_train_step(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1))
# %% cell
def mini_batch(data_loader, step_fn):
    mini_batch_losses = []
    for x_batch, y_batch in data_loader:
        mini_batch_losses.append(step_fn(x_batch, y_batch))
    return sum(mini_batch_losses) / len(mini_batch_losses)

losses = [mini_batch(train_loader, train_step_fn) for epoch in range(2)]

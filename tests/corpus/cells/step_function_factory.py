# make_train_step: a closure that builds the step, the loop calls what it returns.  idiom: step-function
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

train_loader = DataLoader(TensorDataset(torch.rand(18, 1), torch.rand(18, 1)), batch_size=7)
model = nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-1)
n_epochs = 2
# %% cell
def make_train_step(model, loss_fn, optimizer):
    def train_step(x, y):
        model.train()
        yhat = model(x)
        loss = loss_fn(y, yhat)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()
    return train_step

train_step_fn = make_train_step(model, nn.MSELoss(reduction='mean'), optimizer)
losses = []
for epoch in range(n_epochs):
    for x_batch, y_batch in train_loader:
        loss = train_step_fn(x_batch, y_batch)
        losses.append(loss)
print(model.state_dict())

# the slices of the data stand inside the calls, and are read once more after the step.  idiom: slicing
# %% setup
import torch
from torch import nn

X_train, y_train = torch.randn(13, 4), torch.randint(0, 2, (13, 1)).double()
model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1), nn.Sigmoid())
loss_fn = nn.BCELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
# %% cell
batch_size = 5
for epoch in range(2):
    correct = 0
    for i in range(0, len(X_train), batch_size):
        y_pred = model(X_train[i : i + batch_size])
        loss = loss_fn(y_pred, y_train[i : i + batch_size])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        correct += (y_pred.round() == y_train[i : i + batch_size]).sum().item()
    print(f"epoch {epoch}, loss {loss}, accuracy {correct / len(X_train)}")

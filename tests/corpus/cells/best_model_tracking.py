# evaluation after each epoch, best weights by deepcopy, early-stopping patience and break.  idiom: epochs-module
# %% setup
import copy
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

tr = DataLoader(TensorDataset(torch.randn(18, 3), torch.randn(18, 1)), batch_size=7, shuffle=True)
X_val, y_val = torch.randn(8, 3), torch.randn(8, 1)
model = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 1))
loss_fn = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
# %% cell
best_mse = float('inf')
best_weights = None
patience, bad_epochs = 1, 0

for epoch in range(5):
    model.train()
    for X_batch, y_batch in tr:
        y_pred = model(X_batch)
        loss = loss_fn(y_pred, y_batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # evaluate accuracy at end of each epoch
    model.eval()
    with torch.no_grad():
        mse = float(loss_fn(model(X_val), y_val))
    if mse < best_mse:
        best_mse = mse
        best_weights = copy.deepcopy(model.state_dict())
        bad_epochs = 0
    else:
        bad_epochs += 1
        if bad_epochs > patience:
            print("early stop at", epoch)
            break

model.load_state_dict(best_weights)
print("MSE: %.4f" % best_mse)

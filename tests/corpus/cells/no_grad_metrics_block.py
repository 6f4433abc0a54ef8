# metrics in a no_grad block of the body that runs the model again on the batch.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(17, 4), torch.randn(17, 1)), batch_size=6, shuffle=True)
model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
# %% cell
for epoch in range(2):
    mae_sum, after_sum, n = 0.0, 0.0, 0
    for x, y in loader:
        pred = model(x)
        loss = nn.functional.mse_loss(pred, y)
        with torch.no_grad():
            mae_sum += (pred - y).abs().sum().item()
            n += y.numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            after_sum += (model(x) - y).abs().sum().item()
    print(f"MAE before {mae_sum / n:.4f} after {after_sum / n:.4f}")

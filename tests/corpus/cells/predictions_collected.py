# predictions and labels collected in lists, concatenated after the epoch.  idiom: epochs-module
# %% setup
import torch
import numpy as np
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

dl_train = DataLoader(TensorDataset(torch.randn(20, 5), torch.randint(0, 2, (20, 1))), batch_size=8, shuffle=True)
mlp = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1))
bce = nn.BCEWithLogitsLoss()
opt = torch.optim.Adam(mlp.parameters(), 1e-2)
# %% cell
for epoch in range(2):
    y_true, y_score = [], []
    for xb, yb in dl_train:
        opt.zero_grad()
        logit = mlp(xb)
        loss = bce(logit, yb.double())
        loss.backward()
        opt.step()
        y_true.extend(yb.cpu().numpy().ravel().tolist())
        y_score.append(torch.sigmoid(logit).detach().cpu().numpy())
    y_score = np.concatenate(y_score).ravel()
    acc = np.mean((y_score > 0.5) == (np.array(y_true) == 1))
    print(f"{epoch}: acc={acc:.3f} mean score={y_score.mean():.4f}")

# KFold cross validation, new model per fold, OOF array filled by index, SWA model averaging at epoch end.  idiom: epochs-module
# ignore: oof_time, train_ds, valid_ds
# %% setup
import numpy as np, time
import torch
from torch import nn
from sklearn.model_selection import KFold
from torch.utils.data import DataLoader, TensorDataset, Subset
X = torch.randn(30, 5); y = (X[:, 0] + 0.1 * torch.randn(30)).view(-1, 1)
ds = TensorDataset(X, y)
# %% cell
oof = np.zeros((len(X), 1))
scores = []
kf = KFold(n_splits=3, shuffle=True, random_state=0)
for fold, (tr_idx, va_idx) in enumerate(kf.split(np.arange(len(X)))):
    torch.manual_seed(fold)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
    swa = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-3)
    train_loader = DataLoader(Subset(ds, tr_idx.tolist()), batch_size=7)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-2, epochs=2, steps_per_epoch=len(train_loader))
    for epoch in range(2):
        t0 = time.time()
        train_loss = 0
        for bx, by in train_loader:
            pred = model(bx)
            loss = nn.functional.mse_loss(pred, by)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            train_loss += loss.item() * bx.shape[0] / len(train_loader.dataset)
        swa.update_parameters(model)
    with torch.no_grad():
        oof[va_idx] = swa(X[va_idx]).numpy()
    rmse = np.sqrt(np.mean((oof[va_idx] - y[va_idx].numpy()) ** 2))
    scores.append(rmse)
    print(f'fold {fold} train {train_loss:.4f} rmse {rmse:.4f}')
oof_time = time.time() - t0
del t0
print('CV', np.mean(scores))

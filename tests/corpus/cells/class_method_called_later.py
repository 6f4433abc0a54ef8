# the cell defines a class whose fit method trains on slices of arrays; a later cell uses it.  idiom: method
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F

X = torch.randn(22, 3)
y = X.sum(1, keepdim=True).sin()
# %% cell
class Regressor:
    def __init__(self, in_dim, hidden=6):
        self.net = nn.Sequential(nn.Linear(in_dim, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-2)
        self.losses_ = []

    def fit(self, X, y, n_iter=2, batch_size=9):
        for it in range(n_iter):
            for start in range(0, X.shape[0], batch_size):
                X_mini = X[start:start + batch_size]
                y_mini = y[start:start + batch_size]
                self.optimizer.zero_grad()
                loss = F.mse_loss(self.net(X_mini), y_mini)
                loss.backward()
                self.optimizer.step()
                self.losses_.append(loss.item())
        return self

    def predict(self, X):
        with torch.no_grad():
            return self.net(X)
# %% later
reg = Regressor(3).fit(X, y)
score = float(((reg.predict(X) - y) ** 2).mean())
print(len(reg.losses_), score)

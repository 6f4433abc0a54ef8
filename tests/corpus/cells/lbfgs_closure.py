# full-batch LBFGS with the usual closure.  idiom: closure
# %% setup
import torch
from torch import nn

xs = torch.linspace(0, 3, 17).unsqueeze(1)
ys = torch.exp(-xs) * torch.cos(3 * xs)
model = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))
criterion = nn.MSELoss()
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3, history_size=5)
# %% cell
evals = 0
for step in range(2):
    def closure():
        global evals
        evals += 1
        optimizer.zero_grad()
        out = model(xs)
        loss = criterion(out, ys)
        loss.backward()
        return loss
    loss = optimizer.step(closure)
    print('STEP', step, 'loss:', loss.item())

# --window where the step slices its data itself: there is no loader to take more batches from.  idiom: window
# options: --window
# %% setup
import torch
from torch import nn
X, Y = torch.randn(20, 4), torch.randn(20, 1)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for i in range(0, 20, 5):
    x, y = X[i : i + 5], Y[i : i + 5]
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
# %% refused
# line 5: --window puts 2 batches of a loader together, and this step has no loader
# Make that batch 2 times larger

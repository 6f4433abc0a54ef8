# A function is given its parameters: `x @ w + b` is all that shows a graph.  idiom: loader-def
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(11, 3), torch.randn(11, 1)), batch_size=4)
# %% cell
def fit(w, b, lr=0.1, epochs=2):
    opt = torch.optim.SGD([w, b], lr=lr)
    for epoch in range(epochs):
        for x, y in loader:
            loss = F.mse_loss(x @ w + b, y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return w, b, loss.item()

fit(torch.zeros(3, 1, requires_grad=True), torch.zeros(1, requires_grad=True))

# a partial of a function behind a decorator that knows no functools.wraps.  idiom: follow-the-call
# %% setup
import functools
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def counted(function):
    def wrapper(*args, **kwargs):
        wrapper.calls += 1
        return function(*args, **kwargs)
    wrapper.calls = 0
    return wrapper

@counted
def train(epochs, loader, *, model, clip=None):
    """Train for some epochs."""
    losses = []
    for epoch in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x).squeeze(-1), y)
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            losses.append(loss.item())
    return losses

x, y = torch.randn(26, 6), torch.randn(26)
loader = DataLoader(TensorDataset(x, y), batch_size=8)
model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
train_two = functools.partial(train, 2, model=model)
# %% cell
losses = train_two(loader, clip=0.1)
calls = train.calls

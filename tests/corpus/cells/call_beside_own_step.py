# a cell with a step of its own calls a function that trains another model, and one that only asks for gradients.  idiom: follow-the-call
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def pretrain(encoder, head, loader):
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    for x, _ in loader:
        optimizer.zero_grad()
        loss = (head(encoder(x)) - x).square().mean()
        loss.backward()
        optimizer.step()

def saliency(model, x):
    x = x.clone().requires_grad_()
    model(x)[:, 0].sum().backward()
    return x.grad.abs()

x, y = torch.randn(26, 6), torch.randint(0, 3, (26,))
loader = DataLoader(TensorDataset(x, y), batch_size=8)
encoder, head, classifier = nn.Linear(6, 4), nn.Linear(4, 6), nn.Linear(4, 3)
model = nn.Sequential(encoder, nn.Tanh(), classifier)
optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
# %% cell
pretrain(encoder, head, loader)
for x_batch, y_batch in loader:
    loss = nn.functional.cross_entropy(model(x_batch), y_batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
weights = saliency(model, x[:4])

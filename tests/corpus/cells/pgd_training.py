# adversarial training by PGD: a loop of attacks on `delta`, made of the batch above it, then the step.  idiom: several-backwards
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.rand(23, 4), torch.randint(0, 3, (23,))), batch_size=8)
model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
opt = torch.optim.SGD(model.parameters(), lr=0.1)
eps, alpha = 0.1, 0.05
# %% cell
for i, (X, y) in enumerate(loader):
    delta = torch.zeros_like(X).uniform_(-eps, eps)
    delta.requires_grad = True
    for _ in range(2):
        loss = F.cross_entropy(model(X + delta), y)
        loss.backward()
        grad = delta.grad.detach()
        delta.data = torch.clamp(delta + alpha * torch.sign(grad), -eps, eps)
        delta.grad.zero_()
    delta = delta.detach()
    output = model(X + delta)
    loss = F.cross_entropy(output, y)
    opt.zero_grad()
    loss.backward()
    opt.step()

# gradient norms read by hand between backward and step, and max-abs clamped in place.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(14, 4), torch.randint(0, 3, (14,))), batch_size=5)
model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01)
loss_fn = nn.CrossEntropyLoss()
grad_log = []
# %% cell
for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    total_norm = 0
    for p in model.parameters():
        param_norm = p.grad.detach().data.norm(2)
        total_norm += param_norm.item() ** 2
        p.grad.data.clamp_(-0.05, 0.05)
    grad_log.append(total_norm ** 0.5)
    optimizer.step()
print(grad_log)

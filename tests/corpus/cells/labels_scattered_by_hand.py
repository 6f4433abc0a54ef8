# smoothed one-hot labels are scattered into a tensor shaped like the outputs, which changes no label.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(13, 4), torch.randint(0, 3, (13,))), batch_size=5)
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
smoothing = 0.1
for x, y in loader:
    log_p = model(x).log_softmax(dim=-1)
    with torch.no_grad():
        smooth = torch.zeros_like(log_p)
        smooth.fill_(smoothing / 2)
        smooth.scatter_(1, y.data.unsqueeze(1), 1.0 - smoothing)
    loss = torch.mean(torch.sum(-smooth * log_p, dim=-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

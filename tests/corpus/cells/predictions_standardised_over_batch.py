# predictions standardised over the batch inside the step, and read after it: the loss sees the whole batch.  idiom: loss-replay
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(torch.randn(26, 5), torch.randint(0, 3, (26,))), batch_size=8)
model = nn.Linear(5, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for x, y in loader:
    out = model(x)
    out = out - out.mean(0)
    loss = F.cross_entropy(out, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    hits = (out.argmax(1) == y).sum()

# attention over the samples of a batch, with the weights in the module itself: no part of it can run in chunks.  idiom: loss-replay
# when: run
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(torch.randn(26, 5), torch.randint(0, 3, (26,))), batch_size=8)
class BatchAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.value = nn.Parameter(torch.randn(5, 5)), nn.Parameter(torch.randn(5, 3))
    def forward(self, x):
        return torch.softmax(x @ self.query @ x.T, dim=1) @ (x @ self.value)
model = BatchAttention()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for x, y in loader:
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
# %% refused
line 2
`BatchAttention` itself compares the samples
--replay never

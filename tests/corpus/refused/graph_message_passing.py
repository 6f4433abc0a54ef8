# message passing over a whole graph: half of the nodes have neighbours in the other half.  idiom: graph
# when: run
# %% setup
import torch
from torch import nn
x, y, edge_index = torch.randn(26, 4), torch.randn(26, 1), torch.randint(0, 26, (2, 60))
class MP(nn.Module):
    def __init__(self):
        super().__init__()
        self.l, self.o = nn.Linear(4, 6), nn.Linear(6, 1)
    def forward(self, x, edge_index):
        h = self.l(x)
        agg = torch.zeros_like(h).index_add_(0, edge_index[1], h[edge_index[0]])
        return self.o(torch.relu(agg + h))
model = MP()
opt = torch.optim.Adam(model.parameters(), lr=0.01)
# %% cell
for epoch in range(3):
    opt.zero_grad()
    pred = model(x, edge_index)
    loss = nn.functional.mse_loss(pred, y)
    loss.backward()
    opt.step()
# %% refused
line 3
13 of the batch's 26 samples
Split were `x` and `y`: name another batch with --batch

# top-1 experts: each gets the rows routed to it, one of them none of the first samples', beside a batch-wise loss.  idiom: loss-replay
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
class SwitchLayer(nn.Module):
    def __init__(self, width, count):
        super().__init__()
        self.count, self.router = count, nn.Linear(width, count)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, width)) for _ in range(count))
    def forward(self, x):
        probs = self.router(x).softmax(-1)
        top_p, top_i = probs.max(-1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            idx = torch.where(top_i == i)[0]
            if idx.numel():
                out[idx] = expert(x[idx]) * top_p[idx].unsqueeze(1)
        share = F.one_hot(top_i, self.count).double().mean(0)
        return x + out, self.count * (share * probs.mean(0)).sum()
layer, head = SwitchLayer(6, 5), nn.Linear(6, 2)
optimizer = torch.optim.SGD([*layer.parameters(), *head.parameters()], lr=0.05)
loader = DataLoader(TensorDataset(torch.randn(34, 6), torch.randint(0, 2, (34,))), batch_size=13)
# %% cell
losses = []
for x, y in loader:
    h, balance = layer(x)
    logits = head(h)
    loss = F.cross_entropy(logits, y) + 0.01 * balance
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append((loss.item(), balance.item()))

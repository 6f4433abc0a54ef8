# a custom collate returns a dataclass, moved and split into names in the body.  idiom: epochs-module
# %% setup
import torch
from dataclasses import dataclass
from torch import nn
from torch.utils.data import DataLoader

@dataclass
class Graphs:
    nodes: torch.Tensor
    target: torch.Tensor
    def to(self, device):
        return Graphs(self.nodes.to(device), self.target.to(device))

def collate(items):
    return Graphs(torch.stack([a for a, _ in items]), torch.tensor([t for _, t in items]))

items = [(torch.randn(3, 2), float(i % 4)) for i in range(11)]
loader = DataLoader(items, batch_size=4, collate_fn=collate, shuffle=True)
device = "cpu"

class MeanPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(2, 5); self.g = nn.Linear(5, 1)
    def forward(self, nodes):
        return self.g(torch.relu(self.f(nodes)).mean(dim=1)).squeeze(-1)

model = MeanPool()
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
criterion = nn.L1Loss()
# %% cell
for epoch in range(2):
    for batch in loader:
        batch = batch.to(device)
        optimizer.zero_grad()
        out = model(batch.nodes)
        loss = criterion(out, batch.target.to(out.dtype))
        loss.backward()
        optimizer.step()
    print(f"Epoch {epoch:03d}, MAE {loss.item():.4f}")

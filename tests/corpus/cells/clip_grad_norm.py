# clip_grad_norm_ between backward and step, the returned norm is kept.  idiom: epochs-module
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(16, 5, 3), torch.randn(16, 1)), batch_size=6)
class Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 6, batch_first=True)
        self.head = nn.Linear(6, 1)
    def forward(self, x):
        _, h = self.gru(x)
        return self.head(h[-1])
model = Seq()
criterion = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
clip = 0.25
# %% cell
norms = []
for epoch in range(2):
    for src, trg in loader:
        optimizer.zero_grad()
        output = model(src)
        loss = criterion(output, trg)
        loss.backward()
        gn = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        norms.append(gn.item())
print(max(norms))

# zip of a labelled and a second labelled loader, two means summed.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

src_loader = DataLoader(TensorDataset(torch.randn(16, 4), torch.randint(0, 3, (16,))), batch_size=6)
tgt_loader = DataLoader(TensorDataset(torch.randn(16, 4) + 1, torch.randint(0, 3, (16,))), batch_size=6)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
ce = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
for epoch in range(2):
    for (xs, ys), (xt, yt) in zip(src_loader, tgt_loader):
        optimizer.zero_grad()
        loss_s = ce(model(xs), ys)
        loss_t = ce(model(xt), yt)
        loss = loss_s + 0.5 * loss_t
        loss.backward()
        optimizer.step()
    print(f"{epoch} source {loss_s.item():.4f} target {loss_t.item():.4f} sum {loss.item():.4f}")

# learnable coefficients: exp(-s) * loss + s for each of two tasks, one with missing labels.  idiom: several-losses
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

labels = torch.where(torch.rand(23) < 0.5, -1, torch.randint(0, 3, (23,)))
labels[::8] = 0
loader = DataLoader(TensorDataset(torch.randn(23, 5), labels, torch.randn(23)), batch_size=8)
body, cls, depth = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 1)
s1, s2 = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
opt = torch.optim.Adam([*body.parameters(), *cls.parameters(), *depth.parameters(), s1, s2], lr=1e-2)
# %% cell
for x, y, d in loader:
    h = F.relu(body(x))
    task1 = F.cross_entropy(cls(h), y, ignore_index=-1)
    task2 = F.l1_loss(depth(h).squeeze(1), d)
    loss = torch.exp(-s1) * task1 + torch.exp(-s2) * task2 + s1 + s2
    opt.zero_grad()
    loss.backward()
    opt.step()
    print(f"{loss.item():.6f} {task1.item():.6f} {task2.item():.6f} {s1.item():.6f}")

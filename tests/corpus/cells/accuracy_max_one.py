# preds = outputs.max(1)[1] after the step, running accuracy by mean over batches.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

dl = DataLoader(TensorDataset(torch.randn(20, 1, 28), torch.randint(0, 10, (20, 1))), batch_size=8, shuffle=True)
net = nn.Sequential(nn.Flatten(), nn.Linear(28, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
F = nn.functional
# %% cell
accs, lbls = [], []
for _ in range(2):
    for xb, yb in dl:
        yb = yb.squeeze(1)
        outputs = net(xb)
        loss = F.cross_entropy(outputs, yb)
        net.zero_grad()
        loss.backward()
        optimizer.step()

        preds = outputs.max(1)[1]
        accs.append((preds == yb).double().mean().item())
        lbls.append(preds.tolist())
sum(accs) / len(accs)

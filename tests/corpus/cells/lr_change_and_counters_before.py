# a hand-made LR warmup, counters and list appends between the batch and the backward run once.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(22, 4), torch.randint(0, 3, (22,))), batch_size=8)
model = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
criterion = nn.CrossEntropyLoss()
base_lr, warmup = 0.1, 4
global_step, seen, lrs = 0, 0, []
# %% cell
for epoch in range(2):
    for xb, yb in loader:
        global_step += 1
        seen += xb.size(0)
        lr = base_lr * min(1.0, global_step / warmup)
        for g in optimizer.param_groups:
            g['lr'] = lr
        logits = model(xb)
        lrs.append(lr)
        loss = criterion(logits, yb)
        print(f'step {global_step} seen {seen} lr {lr:.3f}')
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(lrs)

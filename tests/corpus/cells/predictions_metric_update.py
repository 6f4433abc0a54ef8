# an accuracy meter object updated with the outputs after the step, compute() per epoch.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class AverageMeter:
    def __init__(self):
        self.reset()
    def reset(self):
        self.sum, self.count = 0.0, 0
    def update(self, val, n=1):
        self.sum += val * n
        self.count += n
    @property
    def avg(self):
        return self.sum / max(self.count, 1)

class Accuracy:
    def __init__(self):
        self.hits = torch.zeros((), dtype=torch.long)
        self.n = 0
    def update(self, preds, target):
        self.hits += (preds.argmax(dim=-1) == target).sum()
        self.n += target.numel()
    def compute(self):
        return (self.hits / self.n).item()
    def reset(self):
        self.__init__()

train_loader = DataLoader(TensorDataset(torch.randn(19, 6), torch.randint(0, 4, (19,))), batch_size=7)
net = nn.Linear(6, 4)
optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
criterion = nn.CrossEntropyLoss()
metric, meter = Accuracy(), AverageMeter()
# %% cell
for epoch in range(2):
    metric.reset()
    meter.reset()
    for inp, tgt in train_loader:
        optimizer.zero_grad()
        preds = net(inp)
        loss = criterion(preds, tgt)
        loss.backward()
        optimizer.step()
        metric.update(preds, tgt)
        meter.update(loss.item(), inp.size(0))
    print(f"epoch {epoch}  loss {meter.avg:.4f}  acc {metric.compute():.3f}")

# a Trainer class with self.model, self.opt; defined and run in the same cell.  idiom: method
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

train_loader = DataLoader(TensorDataset(torch.randn(17, 4), torch.randint(0, 3, (17,))), batch_size=6, shuffle=True)
val_loader = DataLoader(TensorDataset(torch.randn(7, 4), torch.randint(0, 3, (7,))), batch_size=4)
net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
# %% cell
class Trainer:
    def __init__(self, model, lr=0.05, device="cpu"):
        self.model = model.to(device)
        self.device = device
        self.opt = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)
        self.criterion = nn.CrossEntropyLoss()
        self.history = {"train": [], "val": []}
        self.global_step = 0

    def train_epoch(self, loader):
        self.model.train()
        total, n = 0.0, 0
        for xb, yb in loader:
            xb, yb = xb.to(self.device), yb.to(self.device)
            self.opt.zero_grad()
            logits = self.model(xb)
            loss = self.criterion(logits, yb)
            loss.backward()
            self.opt.step()
            self.global_step += 1
            total += loss.item() * len(xb)
            n += len(xb)
        return total / n

    @torch.no_grad()
    def evaluate(self, loader):
        self.model.eval()
        hits = sum((self.model(xb).argmax(1) == yb).sum().item() for xb, yb in loader)
        return hits / len(loader.dataset)

    def fit(self, train_loader, val_loader, epochs):
        for ep in range(epochs):
            self.history["train"].append(self.train_epoch(train_loader))
            self.history["val"].append(self.evaluate(val_loader))
            print(f"[{ep}] loss={self.history['train'][-1]:.4f} acc={self.history['val'][-1]:.3f}")

trainer = Trainer(net)
trainer.fit(train_loader, val_loader, epochs=2)
history = trainer.history

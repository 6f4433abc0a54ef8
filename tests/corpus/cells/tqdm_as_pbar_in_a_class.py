# one cell: Trainer class with self.model, tqdm(..) as pbar with postfix, fit called at the end.  idiom: class-method
# ignore: trainer
# %% setup
import torch
import torch.nn as nn
from tqdm import tqdm
from torch.utils.data import DataLoader, TensorDataset
train_dl = DataLoader(TensorDataset(torch.randn(26, 8), torch.randn(26)), batch_size=8)
val_dl = DataLoader(TensorDataset(torch.randn(10, 8), torch.randn(10)), batch_size=8)
mlp = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
# %% cell
class Trainer:
    def __init__(self, model, lr=1e-2, device='cpu'):
        self.model = model.to(device)
        self.device = device
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr)
        self.loss_fn = nn.MSELoss()
        self.history = {"train": [], "val": []}
        self.global_step = 0

    def train_epoch(self, loader):
        self.model.train()
        running, seen = 0.0, 0
        with tqdm(loader, desc="train", disable=True) as pbar:
            for x, y in pbar:
                x, y = x.to(self.device), y.to(self.device)
                self.optimizer.zero_grad()
                y_hat = self.model(x).squeeze()
                loss = self.loss_fn(y_hat, y)
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), 5.)
                self.optimizer.step()
                self.global_step += 1
                running += loss.item() * len(x)
                seen += len(x)
                pbar.set_postfix({"loss": f"{running / seen:.4f}", "step": self.global_step})
        return running / seen

    @torch.no_grad()
    def evaluate(self, loader):
        self.model.eval()
        tot = 0.
        for x, y in loader:
            tot += self.loss_fn(self.model(x.to(self.device)).squeeze(), y.to(self.device)).item() * len(x)
        return tot / len(loader.dataset)

    def fit(self, train_loader, val_loader, epochs):
        for ep in range(epochs):
            self.history["train"].append(self.train_epoch(train_loader))
            self.history["val"].append(self.evaluate(val_loader))
            print(ep, self.history["train"][-1], self.history["val"][-1])
        return self.history

trainer = Trainer(mlp)
hist = trainer.fit(train_dl, val_dl, 2)

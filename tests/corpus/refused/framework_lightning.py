# Lightning trains; it has its own argument for this.  idiom: framework
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
class Trainer:
    def fit(self, model, loader):
        self.fitted = len(loader)
Trainer.__module__ = "lightning.pytorch.trainer.trainer"
trainer = Trainer()
# %% cell
trainer.fit(model, loader)
# %% refused
# line 1
# accumulate_grad_batches=2
# batch_size=3 in the loader

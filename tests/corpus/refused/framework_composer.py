# Composer's Trainer trains; it has its own argument for this.  idiom: framework
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
    def __init__(self, model, train_dataloader, max_duration):
        self.model, self.max_duration = model, max_duration
    def fit(self):
        self.fitted = self.max_duration
Trainer.__module__ = "composer.trainer.trainer"
# %% cell
trainer = Trainer(model, train_dataloader=loader, max_duration="2ep")
trainer.fit()
# %% refused
# line 2
# device_train_microbatch_size=3

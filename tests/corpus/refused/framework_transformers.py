# Hugging Face's Trainer trains; it has its own argument for this.  idiom: framework
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
    def __init__(self, model, train_dataset):
        self.model, self.train_dataset = model, train_dataset
    def train(self):
        return {"train_loss": 1.0}
Trainer.__module__ = "transformers.trainer"
# %% cell
trainer = Trainer(model, train_dataset=loader.dataset)
result = trainer.train()
# %% refused
# line 2
# gradient_accumulation_steps

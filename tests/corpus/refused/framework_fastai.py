# fastai's Learner trains; it has its own callback for this.  idiom: framework
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(10, 4), torch.randint(0, 3, (10,))
loader = DataLoader(TensorDataset(X, Y), batch_size=5)
class Learner:
    def fit_one_cycle(self, n_epoch):
        self.epochs = n_epoch
Learner.__module__ = "fastai.learner"
learn = Learner()
# %% cell
learn.fit_one_cycle(3)
# %% refused
# line 1
# GradientAccumulation

# a learner keeps the batch in attributes of itself, and they are named.  idiom: method
# options: --batch self.xb,self.yb
# %% setup
import torch
from torch import nn

loader = [(torch.randn(5, 4), torch.randint(0, 3, (5,))), (torch.randn(3, 4), torch.randint(0, 3, (3,)))]
model = nn.Linear(4, 3)
# %% cell
class Learner:
    def __init__(self, model, loader):
        self.model, self.loader, self.loss_func = model, loader, nn.CrossEntropyLoss()
        self.opt = torch.optim.SGD(model.parameters(), lr=0.1)

    def one_batch(self):
        self.xb, self.yb = self.batch
        self.preds = self.model(self.xb)
        self.loss = self.loss_func(self.preds, self.yb)
        self.loss.backward()
        self.opt.step()
        self.opt.zero_grad()

    def fit(self):
        for self.num, self.batch in enumerate(self.loader):
            self.one_batch()

Learner(model, loader).fit()

# zero_grad after the step: the first step's gradients start from None.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

feats, labs = torch.randn(17, 5), torch.randint(0, 2, (17,))
dl = DataLoader(TensorDataset(feats, labs), batch_size=6, shuffle=True)
clf = nn.Sequential(nn.Linear(5, 9), nn.SiLU(), nn.Linear(9, 2))
opt = torch.optim.Adagrad(clf.parameters(), lr=0.05)
ce = nn.CrossEntropyLoss()
# %% cell
for ep in range(2):
    for xb, yb in dl:
        out = clf(xb)
        l = ce(out, yb)
        l.backward()
        opt.step()
        opt.zero_grad()
    print(ep, l)

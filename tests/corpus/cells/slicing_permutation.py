# a fresh permutation per epoch, X[perm[i:i+bs]] inside.  idiom: slicing
# %% setup
import torch
from torch import nn

X = torch.randn(20, 3)
Y = torch.randn(20, 2)
model = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 2))
opt = torch.optim.SGD(model.parameters(), lr=0.05, nesterov=True, momentum=0.9)
bs = 8
# %% cell
for epoch in range(2):
    permutation = torch.randperm(X.size()[0])
    epoch_loss = 0.0
    for i in range(0, X.size()[0], bs):
        opt.zero_grad()
        indices = permutation[i:i+bs]
        batch_x, batch_y = X[indices], Y[indices]
        outputs = model(batch_x)
        loss = (outputs - batch_y).pow(2).mean()
        loss.backward()
        opt.step()
        epoch_loss += loss.item() * len(indices)
    print(epoch, epoch_loss / len(X))

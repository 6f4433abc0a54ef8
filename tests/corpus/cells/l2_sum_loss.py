# a summed data term plus a parameter penalty: the penalty must not be added N times.  idiom: full-batch
# %% setup
import torch

Xd = torch.randn(19, 3)
yd = Xd @ torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(19)
theta = torch.zeros(3, requires_grad=True)
opt = torch.optim.SGD([theta], lr=0.005)
lam = 2.0
# %% cell
trace = []
for k in range(5):
    opt.zero_grad()
    resid = Xd @ theta - yd
    loss = 0.5 * (resid ** 2).sum() + lam * theta.norm() ** 2
    loss.backward()
    opt.step()
    trace.append(loss.item())
theta

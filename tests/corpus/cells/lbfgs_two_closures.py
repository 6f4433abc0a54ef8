# LBFGS closure with a regulariser, wrapped in a fit function, loss from optimizer.step.  idiom: closure
# %% setup
import torch
from torch import nn
data = torch.randn(26, 3); target = torch.sin(data).sum(1, keepdim=True)
net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
# %% cell
def fit(net, data, target, iters=2, weight=1e-3):
    opt = torch.optim.LBFGS(net.parameters(), lr=0.3, max_iter=4, line_search_fn="strong_wolfe")
    hist = []
    def closure():
        opt.zero_grad()
        pred = net(data)
        mse = ((pred - target) ** 2).mean()
        reg = sum(p.pow(2).sum() for p in net.parameters())
        loss = mse + weight * reg
        loss.backward()
        hist.append(loss.item())
        return loss
    for _ in range(iters):
        opt.step(closure)
    return hist
hist = fit(net, data, target)

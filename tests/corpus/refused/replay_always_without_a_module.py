# a model of plain tensors calls no module, so there is nothing that could run in chunks.  idiom: loss-replay
# options: --replay always
# when: run
# %% setup
import torch
X, y = torch.randn(24, 5), torch.randn(24)
w = torch.zeros(5, requires_grad=True)
optimizer = torch.optim.SGD([w], lr=0.1)
# %% cell
for i in range(0, len(X), 8):
    xb, yb = X[i:i + 8], y[i:i + 8]
    loss = ((xb @ w - yb) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
# %% refused
line 3
--replay always
no module call that can run in chunks

# linear regression from scratch: tensors w and b, update under no_grad, .grad.zero_().  idiom: full-batch
# %% setup
import torch

inputs = torch.tensor([[73, 67, 43], [91, 88, 64], [87, 134, 58], [102, 43, 37], [69, 96, 70], [74, 60, 41], [80, 70, 50]]) / 100.
targets = torch.tensor([[56, 70], [81, 101], [119, 133], [22, 37], [103, 119], [57, 71], [65, 80]]) / 100.
w = torch.randn(2, 3, requires_grad=True)
b = torch.randn(2, requires_grad=True)

def model(x):
    return x @ w.t() + b

def mse(t1, t2):
    diff = t1 - t2
    return torch.sum(diff * diff) / diff.numel()
# %% cell
for i in range(10):
    preds = model(inputs)
    loss = mse(preds, targets)
    loss.backward()
    with torch.no_grad():
        w -= w.grad * 1e-1
        b -= b.grad * 1e-1
        w.grad.zero_()
        b.grad.zero_()
print(loss)

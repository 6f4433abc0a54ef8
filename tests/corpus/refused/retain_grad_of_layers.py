# the gradients of the layers' outputs are asked for, and read after the loop: makemore.  idiom: manual-sgd
# %% setup
import torch
import torch.nn.functional as F


class Linear:
    def __init__(self, fan_in, fan_out):
        self.weight = torch.randn(fan_in, fan_out)

    def __call__(self, x):
        self.out = x @ self.weight
        return self.out


Xtr, Ytr = torch.randint(0, 5, (40, 3)), torch.randint(0, 5, (40,))
C = torch.randn(5, 2)
layers = [Linear(6, 7), Linear(7, 5)]
parameters = [C, *(layer.weight for layer in layers)]
for p in parameters:
    p.requires_grad = True
# %% cell
for i in range(3):
    ix = torch.randint(0, Xtr.shape[0], (20,))
    Xb, Yb = Xtr[ix], Ytr[ix]
    emb = C[Xb]
    x = emb.view(emb.shape[0], -1)
    for layer in layers:
        x = layer(x)
    loss = F.cross_entropy(x, Yb)
    for layer in layers:
        layer.out.retain_grad()
    for p in parameters:
        p.grad = None
    loss.backward()
    for p in parameters:
        p.data += -0.1 * p.grad
grad_means = [layer.out.grad.mean().item() for layer in layers]
# %% refused
# line 10: `layer.out.retain_grad()` keeps the gradient of a value that is made once per micro-batch

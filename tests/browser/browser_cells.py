"""The cells that the browser runs: a tiny model, and steps that take as long as a person needs to click."""

# The steps are told to a file, so that a test sees in mid-run what the kernel does, past page, server and comm.
SETUP = """
import time
import accum_magic
import torch
import torch.nn.functional as F
from torch import nn
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
X, Y = torch.randn(24, 4), torch.randn(24, 3)
told = None
def tell(step):
    with open(told, "a") as file:
        file.write(f"{step} {time.monotonic()}\\n")
def fresh(file):
    global model, optimizer, told, after
    torch.manual_seed(1)
    model, told, after = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), file, None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
def parameters():
    return [p.detach().clone() for p in model.parameters()]
def plain(steps):
    '''What so many plain steps make of fresh weights.'''
    kept = told
    fresh(kept)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(X), Y).backward()
        optimizer.step()
    return parameters()
def same(a, b):
    return all(torch.allclose(x, y, rtol=1e-9, atol=1e-12) for x, y in zip(a, b, strict=True))
"""
ENDLESS = 2000  # minutes: the tests end such a run themselves


def training(line: str = "4", steps: int = ENDLESS, step_s: float = 0.1, after: str = "after = step") -> str:
    """Return a cell that trains for some `steps * step_s` seconds under `%%accumulate line`, or until it is stopped."""
    return f"""\
%%accumulate {line}
for step in range({steps}):
    optimizer.zero_grad()
    loss = F.mse_loss(model(X), Y)
    loss.backward()
    optimizer.step()
    tell(step)
    time.sleep({step_s})
{after}
"""

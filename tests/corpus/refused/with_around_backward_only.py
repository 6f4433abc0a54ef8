# apex: `with amp.scale_loss(...)` unscales the gradients when it ends, behind a backward that is no longer inside.  idiom: with-block
# %% setup
import contextlib

import torch
from torch import nn

loader = torch.utils.data.DataLoader(torch.randn(23, 3), batch_size=6)
model = nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


@contextlib.contextmanager
def scale_loss(loss):
    yield 8 * loss
    for p in model.parameters():
        p.grad /= 8
# %% cell
for x in loader:
    loss = model(x).pow(2).mean()
    optimizer.zero_grad()
    with scale_loss(loss) as scaled_loss:
        scaled_loss.backward()
    optimizer.step()
# %% refused
# line 4: `with scale_loss(loss) as scaled_loss` holds `backward()` but not the forward pass

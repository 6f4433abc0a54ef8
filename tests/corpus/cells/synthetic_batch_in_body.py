# no data set at all: every batch is generated in the body from a known function.  idiom: sampling
# %% setup
import torch
from torch import nn

batch_size = 14
torch_w = torch.randn(4, 1)

def make_features(x):
    """Builds features i.e. a matrix with columns [x, x^2, x^3, x^4]."""
    x = x.unsqueeze(1)
    return torch.cat([x ** i for i in range(1, 5)], 1)

fc = nn.Linear(4, 1)
# %% cell
for batch_idx in range(4):
    # Get data
    random = torch.randn(batch_size)
    batch_x = make_features(random)
    batch_y = batch_x.mm(torch_w) + 2.5

    # Reset gradients
    fc.zero_grad()

    # Forward pass
    output = nn.functional.smooth_l1_loss(fc(batch_x), batch_y)
    loss = output.item()

    # Backward pass
    output.backward()

    # Apply gradients
    for param in fc.parameters():
        param.data.add_(-0.1 * param.grad)

    # Stop criterion
    if loss < 1e-3:
        break

print('Loss: {:.6f} after {} batches'.format(loss, batch_idx))

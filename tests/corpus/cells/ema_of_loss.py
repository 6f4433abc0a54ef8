# an exponential moving average of the loss value, bias-corrected as in an lr finder.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

trn_loader = DataLoader(TensorDataset(torch.randn(23, 4), torch.randint(0, 3, (23,))), batch_size=6, shuffle=True)
net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(net.parameters(), lr=1e-1)
# %% cell
init_value, final_value, beta = 1e-3, 1.0, 0.98
num = len(trn_loader) - 1
mult = (final_value / init_value) ** (1 / num)
lr = init_value
optimizer.param_groups[0]['lr'] = lr
avg_loss, best_loss, batch_num = 0., 0., 0
losses, lrs = [], []
for data in trn_loader:
    batch_num += 1
    inputs, labels = data
    optimizer.zero_grad()
    outputs = net(inputs)
    loss = criterion(outputs, labels)
    # Compute the smoothed loss
    avg_loss = beta * avg_loss + (1 - beta) * loss.item()
    smoothed_loss = avg_loss / (1 - beta ** batch_num)
    # Stop if the loss is exploding
    if batch_num > 1 and smoothed_loss > 4 * best_loss:
        break
    # Record the best loss
    if smoothed_loss < best_loss or batch_num == 1:
        best_loss = smoothed_loss
    losses.append(smoothed_loss)
    lrs.append(lr)
    # Do the SGD step
    loss.backward()
    optimizer.step()
    # Update the lr for the next step
    lr *= mult
    optimizer.param_groups[0]['lr'] = lr
print(losses[-1], lrs[-1])

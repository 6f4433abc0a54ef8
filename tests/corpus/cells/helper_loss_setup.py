# a helper that calls the model and returns (loss, logits), defined in an earlier cell.  idiom: epochs-module
# %% setup
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def compute_loss(model, batch, weight_pos=2.0):
    x, y = batch
    logits = model(x).squeeze(-1)
    loss = F.binary_cross_entropy_with_logits(logits, y, pos_weight=torch.tensor(weight_pos))
    return loss, logits

loader = DataLoader(TensorDataset(torch.randn(15, 4), torch.randint(0, 2, (15,)).double()), batch_size=6)
model = nn.Linear(4, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.2)
# %% cell
for epoch in range(2):
    right = 0
    for batch in loader:
        opt.zero_grad()
        loss, logits = compute_loss(model, batch)
        loss.backward()
        opt.step()
        right += ((logits > 0) == (batch[1] > 0.5)).sum().item()
    print(epoch, right / len(loader.dataset), loss.item())

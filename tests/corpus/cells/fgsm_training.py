# adversarial training by FGSM: the gradient of the batch, then a step on the perturbed batch.  idiom: several-backwards
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(23, 4), torch.randint(0, 3, (23,))), batch_size=8)
model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
eps = 0.1
# %% cell
for data, target in loader:
    data.requires_grad = True
    output = model(data)
    loss = F.cross_entropy(output, target)
    model.zero_grad()
    loss.backward()
    data_grad = data.grad.data
    perturbed = data + eps * data_grad.sign()
    optimizer.zero_grad()
    adv_loss = F.cross_entropy(model(perturbed.detach()), target)
    adv_loss.backward()
    optimizer.step()
    print(loss.item(), adv_loss.item(), data_grad.abs().sum().item())

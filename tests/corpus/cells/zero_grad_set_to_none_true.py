# set_to_none=True, labels one-hot in the loss, loss kept as a tensor history (detached).  idiom: epochs-module
# %% setup
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

train = DataLoader(TensorDataset(torch.randn(21, 3), torch.randint(0, 5, (21,))), batch_size=9, shuffle=True)
layer = torch.nn.Linear(3, 5)
optim = torch.optim.Adam(layer.parameters(), lr=0.01, betas=(0.9, 0.95))
log = []
# %% cell
for epoch in range(2):
    for image, label in train:
        optim.zero_grad(set_to_none=True)
        prob = layer(image).sigmoid()
        cost = F.binary_cross_entropy(prob, F.one_hot(label, num_classes=5).to(prob.dtype))
        cost.backward()
        optim.step()
        log.append(cost.detach())
print(torch.stack(log).mean())

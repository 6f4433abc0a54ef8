# Labels and noise sized by a constant batch_size, drop_last: per sample though no size is read off the batch.  idiom: loader-module
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

batch_size = 5
netD = nn.Linear(4, 1)
optimizerD = torch.optim.SGD(netD.parameters(), lr=0.1)
criterion = nn.BCEWithLogitsLoss()
dataloader = DataLoader(TensorDataset(torch.randn(17, 4)), batch_size=batch_size, drop_last=True)
# %% cell
for i, (data,) in enumerate(dataloader):
    netD.zero_grad()
    real_labels = torch.ones(batch_size, 1)
    noise = 0.1 * torch.randn(batch_size, 4)
    errD = criterion(netD(data + noise), real_labels)
    errD.backward()
    optimizerD.step()
    print(i, errD.item())

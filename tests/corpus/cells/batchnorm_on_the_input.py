# BatchNorm on the input: its running statistics and its counter are the plain cell's, also where each step reads them.  idiom: epochs-module
# verdict: approximate
# ignore: net, optimizer, loss, outputs (gradients behind normalised micro-batches are not the whole batch's)
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

trainloader = DataLoader(TensorDataset(3 * torch.randn(20, 6) + 1, torch.randint(0, 3, (20,))), batch_size=8)
norm = nn.BatchNorm1d(6, affine=False)
net = nn.Sequential(norm, nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=None), nn.ReLU(), nn.Linear(8, 3))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
# %% cell
means = []
for epoch in range(2):
    net.train()
    for inputs, labels in trainloader:
        optimizer.zero_grad()
        outputs = net(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        means.append(norm.running_mean.tolist())
    print(epoch, norm.num_batches_tracked.item(), net[2].num_batches_tracked.item(), norm.running_var)

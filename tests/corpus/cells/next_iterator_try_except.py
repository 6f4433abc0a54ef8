# try: batch = next(it) except StopIteration: restart; the try is around the fetch only.  idiom: sampling
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

train_loader = DataLoader(TensorDataset(torch.randn(11, 3), torch.randint(0, 2, (11,))), batch_size=4)
net = nn.Linear(3, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
criterion = nn.CrossEntropyLoss()
num_iters = 5
# %% cell
data_iter = iter(train_loader)
losses = []
for it in range(num_iters):
    try:
        images, labels = next(data_iter)
    except StopIteration:
        data_iter = iter(train_loader)
        images, labels = next(data_iter)

    optimizer.zero_grad()
    loss = criterion(net(images), labels)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(losses)

# stop after n_batches, continue on a size, running average printed with tqdm.write-like prints and reset.  idiom: epochs-module
# %% setup
import torch
import torch.nn as nn
import torch.optim as optim
from torch.utils.data import DataLoader, TensorDataset
trainloader = DataLoader(TensorDataset(torch.rand(42, 3, 6, 6), torch.randint(0, 10, (42,))), batch_size=8)
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
criterion = nn.CrossEntropyLoss()
optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
# %% cell
max_batches, done = 8, False
n_batches = 0
for epoch in range(5):  # loop over the dataset multiple times
    running_loss = 0.0
    for i, data in enumerate(trainloader, 0):
        # get the inputs; data is a list of [inputs, labels]
        inputs, labels = data
        if inputs.shape[0] < 4:
            print('skipping a short batch')
            continue

        # zero the parameter gradients
        optimizer.zero_grad()

        # forward + backward + optimize
        outputs = net(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()

        # print statistics
        running_loss += loss.item()
        n_batches += 1
        if i % 3 == 2:    # print every 3 mini-batches
            print(f'[{epoch + 1}, {i + 1:5d}] loss: {running_loss / 3:.3f}')
            running_loss = 0.0
        if n_batches >= max_batches:
            done = True
            break
    if done: break
print('Finished Training')

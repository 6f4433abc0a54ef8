# `_, predicted = torch.max(outputs.data, 1)` after the step, total / correct counters.  idiom: epochs-module
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

train_loader = DataLoader(TensorDataset(torch.randn(23, 1, 4, 4), torch.randint(0, 3, (23,))), batch_size=9, shuffle=True)
model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
error = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss_list, iteration_list, accuracy_list = [], [], []
# %% cell
count = 0
for epoch in range(2):
    correct = 0
    total = 0
    for i, (images, labels) in enumerate(train_loader):
        train = images.view(-1, 16)
        labels = labels
        # Clear gradients
        optimizer.zero_grad()
        outputs = model(train)
        loss = error(outputs, labels)
        loss.backward()
        optimizer.step()
        count += 1

        _, predicted = torch.max(outputs.data, 1)
        total += len(labels)
        correct += (predicted == labels).sum()
        if count % 2 == 0:
            accuracy = 100 * correct / total
            loss_list.append(loss.data)
            iteration_list.append(count)
            accuracy_list.append(accuracy)
            print('Iteration: {}  Loss: {:.4f}  Accuracy: {:.2f} %'.format(count, loss.data, accuracy))

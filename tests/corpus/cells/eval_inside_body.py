# a validation loop inside the training body every k steps that reuses images, labels.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

train_loader = DataLoader(TensorDataset(torch.rand(20, 1, 4, 4), torch.randint(0, 3, (20,))), batch_size=6, shuffle=True)
test_loader = DataLoader(TensorDataset(torch.rand(10, 1, 4, 4), torch.randint(0, 3, (10,))), batch_size=6)
model = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
iteration = 0
for epoch in range(2):
    for i, (images, labels) in enumerate(train_loader):
        images = images.view(-1, 16).requires_grad_()
        optimizer.zero_grad()
        outputs = model(images)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        iteration += 1

        if iteration % 3 == 0:
            # Calculate Accuracy
            correct = 0
            total = 0
            for images, labels in test_loader:
                images = images.view(-1, 16)
                outputs = model(images)
                _, predicted = torch.max(outputs.data, 1)
                total += labels.size(0)
                correct += (predicted == labels).sum()

            accuracy = 100 * correct / total
            print('Iteration: {}. Loss: {}. Accuracy: {}'.format(iteration, loss.item(), accuracy))

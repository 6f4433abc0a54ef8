# tqdm(enumerate(loader), total=len(loader)) with a tuple target.  idiom: epochs-module
# %% setup
import torch
import torch.nn as nn
from tqdm.auto import tqdm
from torch.utils.data import DataLoader, TensorDataset

train_loader = DataLoader(TensorDataset(torch.randn(14, 1, 6, 6), torch.randint(0, 3, (14,))), batch_size=5, shuffle=True)
device = torch.device("cpu")
model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)).to(device)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
EPOCHS = 2
# %% cell
train_loss_history = []
for epoch in range(EPOCHS):
    model.train()
    epoch_loss = []
    for batch_idx, (images, target) in tqdm(enumerate(train_loader), total=len(train_loader), disable=True):
        images = images.to(device, non_blocking=True)
        target = target.to(device, non_blocking=True)

        scores = model(images)
        loss = criterion(scores, target)

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        epoch_loss.append(loss.item())
    train_loss_history.append(sum(epoch_loss) / len(epoch_loss))
print(["%.4f" % v for v in train_loss_history])

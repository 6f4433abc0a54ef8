# features of a frozen backbone (eval: its BatchNorm and Dropout are still) under no_grad, a trained head.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5)).eval()
for param in backbone.parameters():
    param.requires_grad = False
head = nn.Linear(4 * 9, 3)
train_loader = DataLoader(TensorDataset(torch.rand(16, 3, 5, 5), torch.randint(0, 3, (16,))), batch_size=6, shuffle=True)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(head.parameters(), lr=0.003)
# %% cell
for epoch in range(2):
    running_loss, running_corrects = 0.0, 0
    for inputs, labels in train_loader:
        with torch.no_grad():
            feats = backbone(inputs)
        outputs = head(feats)
        loss = criterion(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running_loss += loss.item() * inputs.size(0)
        running_corrects += (outputs.argmax(1) == labels).sum().item()
    print(f"{epoch}: {running_loss / len(train_loader.dataset):.4f} {running_corrects / len(train_loader.dataset):.4f}")

# N loader batches per update: `len(loader)`, `i % k` logs and the scheduler count the larger batches.  idiom: window
# options: --window
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
data = TensorDataset(torch.randn(43, 6), torch.randint(0, 3, (43,)))
train_loader = DataLoader(data, batch_size=4 * WINDOW, shuffle=True)
device = "cpu"
model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
# %% cell
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, epochs=2, steps_per_epoch=len(train_loader))
for epoch in range(2):
    running_loss, correct = 0.0, 0
    for i, (inputs, labels) in enumerate(train_loader):
        inputs, labels = inputs.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
        running_loss += loss.item() * inputs.size(0)
        correct += (outputs.argmax(1) == labels).sum().item()
        if i % 2 == 1:
            print(f"[{epoch + 1}, {i + 1}/{len(train_loader)}] loss {loss.item():.4f} lr {scheduler.get_last_lr()[0]:.5f}")
    print(running_loss / len(train_loader.dataset), correct / len(data))

# avg over len(train_loader) for train and len(val_loader.dataset) for validation.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

full = TensorDataset(torch.randn(30, 4), torch.randint(0, 3, (30,)))
train_ds, val_ds = random_split(full, [21, 9])
train_loader = DataLoader(train_ds, batch_size=8, shuffle=True)
val_loader = DataLoader(val_ds, batch_size=8)
device = 'cpu'
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(device)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
history = {'train_loss': [], 'val_loss': [], 'val_acc': []}
# %% cell
for epoch in range(2):
    model.train()
    train_loss = 0.0
    for x, y in train_loader:
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        out = model(x)
        loss = criterion(out, y)
        loss.backward()
        optimizer.step()
        train_loss += loss.item()

    model.eval()
    val_loss, correct = 0.0, 0
    with torch.no_grad():
        for x, y in val_loader:
            x, y = x.to(device), y.to(device)
            out = model(x)
            val_loss += criterion(out, y).item() * x.size(0)
            correct += (out.argmax(1) == y).sum().item()

    history['train_loss'].append(train_loss / len(train_loader))
    history['val_loss'].append(val_loss / len(val_loader.dataset))
    history['val_acc'].append(correct / len(val_loader.dataset))
    print(f"Epoch {epoch+1}: train {history['train_loss'][-1]:.4f} val {history['val_loss'][-1]:.4f} acc {history['val_acc'][-1]:.3f}")

# epoch loss as the sum of loss.item() * x.size(0) over len(loader.dataset).  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

xs = torch.linspace(-2, 2, 25).unsqueeze(1)
ys = torch.sin(2 * xs) + 0.1 * torch.randn_like(xs)
train_loader = DataLoader(TensorDataset(xs, ys), batch_size=10, shuffle=True)
model = nn.Sequential(nn.Linear(1, 12), nn.Tanh(), nn.Linear(12, 1))
criterion = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
n_epochs = 2
train_losses = []
# %% cell
for epoch in range(1, n_epochs + 1):
    train_loss = 0.0
    for data, target in train_loader:
        optimizer.zero_grad()
        output = model(data)
        loss = criterion(output, target)
        loss.backward()
        optimizer.step()
        train_loss += loss.item() * data.size(0)
    train_loss = train_loss / len(train_loader.dataset)
    train_losses.append(train_loss)
    print('Epoch: {} \tTraining Loss: {:.6f}'.format(epoch, train_loss))

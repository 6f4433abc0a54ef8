# class weights in the criterion: the divisor is the weight of the targets, not the count.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

train_loader = DataLoader(TensorDataset(torch.randn(20, 4), torch.randint(0, 3, (20,))), batch_size=8, shuffle=True)
class_weights = torch.tensor([0.2, 1.0, 4.0])
model = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3))
criterion = nn.CrossEntropyLoss(weight=class_weights)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
# %% cell
losses = []
for epoch in range(2):
    for xb, yb in train_loader:
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
losses[-1]

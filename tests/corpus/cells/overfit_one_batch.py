# next(iter(loader)) once, then many steps on that batch, the usual sanity check.  idiom: full-batch
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(30, 2, 5), torch.randint(0, 4, (30,))), batch_size=11, shuffle=True)
model = nn.Sequential(nn.Flatten(), nn.Linear(10, 12), nn.LeakyReLU(), nn.Linear(12, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=5e-2)
criterion = nn.CrossEntropyLoss()
# %% cell
data, targets = next(iter(loader))
for step in range(5):
    scores = model(data)
    loss = criterion(scores, targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if loss.item() < 1e-3:
        print('memorised at', step)
print('accuracy', (model(data).argmax(1) == targets).sum().item() / data.shape[0])

# an L1 penalty as an inline generator over named parameters, the penalty logged.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

dataloader = DataLoader(TensorDataset(torch.randn(16, 6), torch.randint(0, 3, (16,))), batch_size=7, shuffle=True)
mlp = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
loss_function = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(mlp.parameters(), lr=1e-2)
l1_weight = 1e-3
# %% cell
for epoch in range(2):
    for inputs, targets in dataloader:
        optimizer.zero_grad()
        outputs = mlp(inputs)
        loss = loss_function(outputs, targets)
        l1 = l1_weight * sum(p.abs().sum() for name, p in mlp.named_parameters() if 'weight' in name)
        total = loss + l1
        total.backward()
        optimizer.step()
    print(f'Loss {loss.item():.4f} (L1 part {l1.item():.4f})')

# a dict batch read key by key into names, accuracy as batch denominators.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader

rows = [{"image": torch.rand(1, 5, 5), "label": torch.tensor(i % 3), "id": f"img_{i:03d}"} for i in range(16)]
loader = DataLoader(rows, batch_size=7, shuffle=True)
device = torch.device('cpu')
cnn = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))
optimizer = torch.optim.Adam(cnn.parameters(), lr=1e-2)
loss_function = nn.CrossEntropyLoss()
# %% cell
seen_ids = []
for sample in loader:
    img = sample['image'].to(device)
    lbl = sample['label'].to(device)
    seen_ids += sample['id']
    optimizer.zero_grad()
    scores = cnn(img)
    batch_loss = loss_function(scores, lbl)
    batch_loss.backward()
    optimizer.step()
    print(len(seen_ids), f"{batch_loss.item():.4f}", (scores.argmax(1) == lbl).sum().item() / len(lbl))

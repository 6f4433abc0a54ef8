# per-pixel cross entropy with squeezed masks, pixel accuracy over numel.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

train_dataloader = DataLoader(TensorDataset(torch.rand(11, 3, 6, 6), torch.randint(0, 3, (11, 1, 6, 6))), batch_size=4)
unet = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(unet.parameters(), lr=0.01)
# %% cell
for epoch in range(2):
    pix_right = pix_total = 0
    for img, mask in train_dataloader:
        mask = mask.squeeze(1).long()
        y_pred = unet(img)
        loss = criterion(y_pred, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pix_right += (y_pred.argmax(1) == mask).sum().item()
        pix_total += mask.numel()
    print(f"Epoch {epoch}  Loss {loss.item():.4f}  Pixel acc {pix_right / pix_total:.4f}")

# images in NHWC permuted and scaled by 255 in the body before a CNN.  idiom: loader-module
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

imgs = torch.randint(0, 256, (14, 6, 6, 3), dtype=torch.uint8)
loader = DataLoader(TensorDataset(imgs, torch.randint(0, 3, (14,))), batch_size=5)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
opt = torch.optim.Adam(model.parameters(), lr=1e-3)
crit = nn.CrossEntropyLoss()
# %% cell
correct = 0
for img, lab in loader:
    img = img.permute(0, 3, 1, 2).double() / 255.0
    opt.zero_grad()
    out = model(img)
    loss = crit(out, lab)
    loss.backward()
    opt.step()
    correct += out.argmax(dim=1).eq(lab).sum().item()
print(f"{correct}/{len(loader.dataset)}", img.shape)

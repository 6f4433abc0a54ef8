# images are permuted, then cast, scaled and moved in one chain; the batch keeps its place.  idiom: loader-module
# %% setup
import torch
from torch import nn

images, device = torch.randint(0, 256, (11, 3, 3, 2)), torch.device("cpu")
loader = [{"image": images[i : i + 4], "label": torch.arange(11)[i : i + 4] % 3} for i in range(0, 11, 4)]
model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
# %% cell
for batch in loader:
    image = batch["image"].permute(0, 3, 1, 2).double().div(255).to(device)
    label = batch["label"].to(device)
    loss = criterion(model(image), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# torchvision's detection reference: a list of images of different sizes, a list of dicts of boxes.  idiom: list-of-images
# when: run
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
    def forward(self, images, targets):
        centres = torch.stack([self.conv(image).mean(dim=(1, 2)) for image in images])
        wanted = torch.stack([target["boxes"].mean(0) for target in targets])
        return {"loss_box": F.smooth_l1_loss(centres, wanted), "loss_size": centres.pow(2).mean()}
model = Detector()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
sizes = [(8, 9), (7, 12), (10, 6), (9, 9)]
samples = [(torch.randn(3, *size), {"boxes": torch.rand(i + 1, 4), "labels": torch.ones(i + 1)}) for i, size in enumerate(sizes)]
data_loader = [tuple(zip(*samples[:2])), tuple(zip(*samples[2:]))]
device = torch.device("cpu")
# %% cell
for images, targets in data_loader:
    images = list(image.to(device) for image in images)
    targets = [{k: v.to(device) for k, v in t.items()} for t in targets]
    loss_dict = model(images, targets)
    losses = sum(loss for loss in loss_dict.values())
    optimizer.zero_grad()
    losses.backward()
    optimizer.step()
# %% refused
# `images`

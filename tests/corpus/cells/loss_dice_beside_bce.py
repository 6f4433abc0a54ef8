# segmentation: BCE plus a soft Dice over the whole batch, from a helper.  idiom: loss-replay
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(torch.randn(14, 1, 8, 8), (torch.rand(14, 1, 8, 8) > 0.5).double()), batch_size=6)
net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
def dice_loss(logits, target, smooth=1.0):
    probs = torch.sigmoid(logits).view(-1)
    target = target.view(-1)
    intersection = (probs * target).sum()
    return 1 - (2.0 * intersection + smooth) / (probs.sum() + target.sum() + smooth)
# %% cell
epoch_loss, iou = 0.0, 0.0
for images, masks in loader:
    preds = net(images)
    loss = F.binary_cross_entropy_with_logits(preds, masks) + dice_loss(preds, masks)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    epoch_loss += loss.item()
    hard = preds > 0
    iou += ((hard * masks).sum() / ((hard + masks) > 0).sum()).item()

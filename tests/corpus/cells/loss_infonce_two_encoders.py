# CLIP by hand: two encoders, a learnable temperature, each sample against all others in the batch.  idiom: loss-replay
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(torch.randn(26, 5), torch.randn(26, 4)), batch_size=8)
image_encoder = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6))
text_encoder = nn.Linear(4, 6)
logit_scale = nn.Parameter(torch.tensor(1.0))
params = [*image_encoder.parameters(), *text_encoder.parameters(), logit_scale]
optimizer = torch.optim.AdamW(params, lr=1e-2)
# %% cell
total = 0.0
for images, texts in loader:
    image_features = F.normalize(image_encoder(images), dim=-1)
    text_features = F.normalize(text_encoder(texts), dim=-1)
    logits = logit_scale.exp() * image_features @ text_features.t()
    labels = torch.arange(len(images))
    loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    total += loss.item() * len(images)
    accuracy = (logits.argmax(1) == labels).float().mean().item()
print(total, accuracy)

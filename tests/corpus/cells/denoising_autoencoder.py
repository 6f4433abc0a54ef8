# a noisy copy is made in the body and clipped, the target is the clean batch.  idiom: epochs-module
# %% setup
import torch
import numpy as np
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

train_loader = DataLoader(TensorDataset(torch.rand(14, 1, 6, 6), torch.zeros(14)), batch_size=5)
model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1), nn.Sigmoid())
criterion = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
# %% cell
n_epochs = 2
# for adding noise to images
noise_factor = 0.5

for epoch in range(1, n_epochs+1):
    train_loss = 0.0
    for data in train_loader:
        # no need to flatten images; _ stands in for labels
        images, _ = data
        ## add random noise to the input images
        noisy_imgs = images + noise_factor * torch.randn(*images.shape)
        # Clip the images to be between 0 and 1
        noisy_imgs = torch.clamp(noisy_imgs, 0., 1.)

        optimizer.zero_grad()
        outputs = model(noisy_imgs)
        # the "target" is still the original, not-noisy images
        loss = criterion(outputs, images)
        loss.backward()
        optimizer.step()
        train_loss += loss.item()*images.size(0)
    train_loss = train_loss/len(train_loader)
    print('Epoch: {} \tTraining Loss: {:.6f}'.format(epoch, train_loss))

# an nn.Module that owns its optimiser: self.forward, self.optimiser, a counter and a progress list.  idiom: method
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

mnist_like = DataLoader(TensorDataset(torch.rand(13, 9), torch.eye(4)[torch.randint(0, 4, (13,))]), batch_size=5)
# %% cell
class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(9, 8), nn.LeakyReLU(0.02), nn.LayerNorm(8), nn.Linear(8, 4), nn.Sigmoid())
        self.loss_function = nn.BCELoss()
        self.optimiser = torch.optim.Adam(self.parameters(), lr=1e-3)
        self.counter = 0
        self.progress = []

    def forward(self, inputs):
        return self.model(inputs)

    def train_one(self, inputs, targets):
        # calculate the output of the network
        outputs = self.forward(inputs)
        # calculate loss
        loss = self.loss_function(outputs, targets)
        # increase counter and accumulate error every 2
        self.counter += 1
        if self.counter % 2 == 0:
            self.progress.append(loss.item())
        # zero gradients, perform a backward pass, update weights
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

C = Classifier()
for epoch in range(2):
    for image_data, target in mnist_like:
        C.train_one(image_data, target)
progress = C.progress
print(C.counter, progress)

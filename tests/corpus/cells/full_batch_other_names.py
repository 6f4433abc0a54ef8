# The whole data set under two new names in every epoch: both are the batch.  idiom: full-batch
# %% setup
import torch
from torch import nn
X_train, y_train = torch.randn(11, 4), torch.randint(0, 3, (11,))
model = nn.Linear(4, 3)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
# %% cell
for epoch in range(3):
    inputs, labels = X_train, y_train
    outputs = model(inputs)
    loss = criterion(outputs, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(epoch, loss.item())

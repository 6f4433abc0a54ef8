# with tqdm(loader) as t: the loop lies in a with, the bar's postfix is set per batch.  idiom: epochs-module
# ignore: tepoch (a bar holds clock times)
# %% setup
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm
from torch.utils.data import DataLoader, TensorDataset

train_loader = DataLoader(TensorDataset(torch.randn(15, 4), torch.randint(0, 3, (15,))), batch_size=6)
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
# %% cell
for epoch in range(1, 3):
    with tqdm(train_loader, unit="batch", disable=True) as tepoch:
        for data, target in tepoch:
            tepoch.set_description(f"Epoch {epoch}")

            optimizer.zero_grad()
            output = F.log_softmax(model(data), dim=1)
            predictions = output.argmax(dim=1, keepdim=True).squeeze()
            loss = F.nll_loss(output, target)
            correct = (predictions == target).sum().item()
            accuracy = correct / len(target)

            loss.backward()
            optimizer.step()

            tepoch.set_postfix(loss=loss.item(), accuracy=100. * accuracy)

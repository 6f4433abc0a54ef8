# Hugging Face Accelerate: prepared objects and accelerator.backward(loss).  idiom: epochs-module
# ignore: accelerator, train_dl (process state; a prepared loader's state_dict raises)
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from accelerate import Accelerator

accelerator = Accelerator(cpu=True)
model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
train_dl = DataLoader(TensorDataset(torch.randn(17, 4), torch.randint(0, 3, (17,))), batch_size=6)
model, optimizer, train_dl = accelerator.prepare(model, optimizer, train_dl)
criterion = nn.CrossEntropyLoss()
# %% cell
for epoch in range(2):
    for inputs, labels in train_dl:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        accelerator.backward(loss)
        optimizer.step()
    accelerator.print(f"epoch {epoch}: {loss.item():.4f}")

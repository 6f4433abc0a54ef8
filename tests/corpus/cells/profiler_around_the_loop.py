# profiler context around the loop with prof.step(), record_function around the parts.  idiom: epochs-module
# ignore: prof
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset
from torch.profiler import profile, record_function, ProfilerActivity, schedule
train_loader = DataLoader(TensorDataset(torch.randn(26, 8), torch.randint(0, 4, (26,))), batch_size=8)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# %% cell
with profile(activities=[ProfilerActivity.CPU], schedule=schedule(wait=1, warmup=1, active=2, repeat=1)) as prof:
    for step, (inputs, labels) in enumerate(train_loader):
        if step >= 3:
            break
        with record_function("forward"):
            out = model(inputs)
            loss = criterion(out, labels)
        optimizer.zero_grad(set_to_none=True)
        with record_function("backward"):
            loss.backward()
        with record_function("optimizer"):
            optimizer.step()
        prof.step()
        print(step, loss.item())

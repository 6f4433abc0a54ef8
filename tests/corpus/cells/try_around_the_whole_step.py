# try around the whole step, except RuntimeError prints and continues.  idiom: try
# %% setup
import torch
from torch import nn
model = nn.Linear(3, 2); opt = torch.optim.SGD(model.parameters(), .1); crit = nn.CrossEntropyLoss()
dl = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(26, 3), torch.randint(0, 2, (26,))), batch_size=8)
# %% cell
skipped = 0
for i, (x, y) in enumerate(dl):
    try:
        opt.zero_grad()
        loss = crit(model(x), y)
        loss.backward()
        opt.step()
    except RuntimeError as e:
        skipped += 1
        print('skipped', i, e)
        continue
    if i >= 2:
        break

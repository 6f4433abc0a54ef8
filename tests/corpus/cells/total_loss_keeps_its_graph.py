# running total_loss += loss that keeps a graph; divided and printed at the end.  idiom: running-loss
# %% setup
import torch
from torch import nn
model = nn.Linear(3, 2); opt = torch.optim.SGD(model.parameters(), .1); crit = nn.CrossEntropyLoss()
dl = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(26, 3), torch.randint(0, 2, (26,))), batch_size=8)
# %% cell
for epoch in range(2):
    total_loss = 0
    for x, y in dl:
        loss = crit(model(x), y)
        total_loss += loss
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f'epoch {epoch}: {total_loss / len(dl):.4f}')
    print(total_loss)

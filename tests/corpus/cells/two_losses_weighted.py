# two heads, loss = loss1 + 0.3 * loss2, all three logged apart.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(5, 8)
        self.cls = nn.Linear(8, 3)
        self.box = nn.Linear(8, 4)
    def forward(self, x):
        h = torch.relu(self.body(x))
        return self.cls(h), self.box(h)

train_dl = DataLoader(TensorDataset(torch.randn(18, 5), torch.randint(0, 3, (18,)), torch.rand(18, 4)), batch_size=7)
model = TwoHeads()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
ce, l1 = nn.CrossEntropyLoss(), nn.L1Loss()
logs = {"cls": [], "box": [], "total": []}
# %% cell
for epoch in range(2):
    for x, y_class, y_bb in train_dl:
        out_class, out_bb = model(x)
        loss1 = ce(out_class, y_class)
        loss2 = l1(out_bb, y_bb)
        loss = loss1 + 0.3 * loss2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        logs["cls"].append(loss1.item())
        logs["box"].append(loss2.item())
        logs["total"].append(loss.item())
    print({k: round(v[-1], 4) for k, v in logs.items()})

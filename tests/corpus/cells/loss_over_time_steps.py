# the loss adds a cross entropy per time step, whose targets are columns of the batch's: every one counts.  idiom: time-steps
# %% setup
import torch
from torch import nn
cell, head = nn.RNNCell(3, 5), nn.Linear(5, 4)
optimizer = torch.optim.SGD([*cell.parameters(), *head.parameters()], lr=0.1)
criterion = nn.CrossEntropyLoss()
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(26, 6, 3), torch.randint(0, 4, (26, 6))), batch_size=8)
# %% cell
for seq, tgt in loader:
    batch_size, T = seq.shape[0], seq.shape[1]
    h = torch.zeros(batch_size, 5)
    loss = 0
    for t in range(T):
        h = cell(seq[:, t], h)
        logits = head(h)
        loss += criterion(logits, tgt[:, t])
    loss = loss / T
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())

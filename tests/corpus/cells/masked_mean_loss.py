# padding mask made in the cell, (l * m).sum() / m.sum(): the divisor depends on the data.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

lens = torch.tensor([4, 1, 5, 2, 3, 1, 5, 4, 2, 1, 3, 5, 2])
seqs = torch.randint(1, 9, (13, 6))
seqs[torch.arange(6)[None] > lens[:, None]] = 0
loader = DataLoader(TensorDataset(seqs), batch_size=5)
lm = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 9))
ce = nn.CrossEntropyLoss(reduction="none")
opt = torch.optim.SGD(lm.parameters(), lr=0.5)
# %% cell
for (seq,) in loader:
    inp, tgt = seq[:, :-1], seq[:, 1:]
    m = (tgt != 0).double()
    opt.zero_grad()
    logits = lm(inp)
    l = ce(logits.transpose(1, 2), tgt)
    loss = (l * m).sum() / m.sum()
    loss.backward()
    opt.step()
    print(f"{loss.item():.5f} over {int(m.sum())} tokens")

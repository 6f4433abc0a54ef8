# time comes first, and a causal mask is made from the size of the time axis, which is the batch's size here.  idiom: time-major
# options: --dim src=1,tgt=1
# %% setup
import torch
from torch import nn

embed, head = nn.Embedding(12, 8), nn.Linear(8, 12)
tr = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0)
optimizer = torch.optim.SGD([p for m in (embed, tr, head) for p in m.parameters()], lr=1e-2)
data = [(torch.randint(1, 12, (3, n)), torch.randint(1, 12, (5, n))) for n in (4, 4, 3)]
loss_fn = nn.CrossEntropyLoss()
# %% cell
for src, tgt in data:
    tgt_input = tgt[:-1, :]
    tgt_mask = torch.triu(torch.ones(tgt_input.shape[0], tgt_input.shape[0]), diagonal=1).bool()
    logits = head(tr(embed(src), embed(tgt_input), None, tgt_mask))
    optimizer.zero_grad()
    tgt_out = tgt[1:, :]
    loss = loss_fn(logits.reshape(-1, logits.shape[-1]), tgt_out.reshape(-1))
    loss.backward()
    optimizer.step()

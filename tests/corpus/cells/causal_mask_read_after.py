# a causal mask made by a helper in the step is the same in each micro-batch, and is printed after it.  idiom: attention-mask
# %% setup
import torch
from torch import nn
emb, att, head = nn.Embedding(9, 8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 9)
optimizer = torch.optim.SGD([p for m in (emb, att, head) for p in m.parameters()], lr=0.1)
loader = torch.utils.data.DataLoader(torch.randint(0, 9, (26, 6)), batch_size=8)
def causal(x):
    return torch.triu(torch.ones(x.size(1), x.size(1)), 1).bool()
# %% cell
for ids in loader:
    inp, tgt = ids[:, :-1], ids[:, 1:]
    h = emb(inp)
    mask = causal(h)
    out, _ = att(h, h, h, attn_mask=mask)
    loss = nn.functional.cross_entropy(head(out).transpose(1, 2), tgt)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    n_masked = int(mask.sum())
print(n_masked)

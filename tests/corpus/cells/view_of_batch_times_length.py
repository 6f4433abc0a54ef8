# logits.view(batch_size * seq_len, -1) with names unpacked from the shape.  idiom: batch-size-in-loss
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
emb, gru, head = nn.Embedding(9, 4), nn.GRU(4, 6, batch_first=True), nn.Linear(6, 9)
optimizer = torch.optim.AdamW([p for m in (emb, gru, head) for p in m.parameters()], lr=1e-2)
data = torch.randint(0, 9, (200,))
def get_batch(bs=7, T=5):
    ix = torch.randint(len(data) - T, (bs,))
    return torch.stack([data[i:i+T] for i in ix]), torch.stack([data[i+1:i+T+1] for i in ix])
# %% cell
for steps in range(4):
    xb, yb = get_batch()
    batch_size, seq_len = xb.shape
    o, _ = gru(emb(xb))
    logits = head(o).view(batch_size * seq_len, -1)
    loss = F.cross_entropy(logits, yb.view(batch_size * seq_len))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
print(loss.item())

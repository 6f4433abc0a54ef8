# islice over cycle(loader), warmup lr set by hand in param_groups, EMA of the logged loss.  idiom: sampling
# %% setup
import math
from itertools import cycle, islice
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
dl = DataLoader(TensorDataset(torch.randn(26, 8), torch.randint(0, 4, (26,))), batch_size=8)
model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
opt = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
max_iters, warmup_iters, max_lr, min_lr = 7, 2, 1e-2, 1e-3
# %% cell
def get_lr(it):
    # 1) linear warmup
    if it < warmup_iters:
        return max_lr * (it + 1) / warmup_iters
    # 2) cosine decay
    ratio = (it - warmup_iters) / (max_iters - warmup_iters)
    return min_lr + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (max_lr - min_lr)

smooth = None
lossi = []
for it, (xb, yb) in enumerate(islice(cycle(dl), max_iters)):
    lr = get_lr(it)
    for g in opt.param_groups:
        g['lr'] = lr
    logits = model(xb)
    loss = F.cross_entropy(logits, yb)
    opt.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    smooth = loss.item() if smooth is None else 0.9 * smooth + 0.1 * loss.item()
    lossi.append(loss.log10().item())
    print(f"step {it:4d} | loss {loss.item():.6f} | smooth {smooth:.4f} | lr {lr:.2e} | norm {norm:.4f}")

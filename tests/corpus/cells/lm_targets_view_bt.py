# logits.view(B*T, C) and targets.view(B*T) with B, T, C from logits.shape.  idiom: sampling
# ignore: B,T,C (sizes of one micro-batch, which nobody reads)
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F

vocab_size, ctx, bsz = 11, 5, 7
data = torch.randint(0, vocab_size, (60,))

class Bigram(nn.Module):
    def __init__(self):
        super().__init__()
        self.token_embedding_table = nn.Embedding(vocab_size, vocab_size)
    def forward(self, idx):
        return self.token_embedding_table(idx)

m = Bigram()
optimizer = torch.optim.AdamW(m.parameters(), lr=1e-2)
# %% cell
for steps in range(4):
    ix = torch.randint(len(data) - ctx, (bsz,))
    xb = torch.stack([data[i:i+ctx] for i in ix])
    yb = torch.stack([data[i+1:i+ctx+1] for i in ix])

    logits = m(xb)
    B, T, C = logits.shape
    loss = F.cross_entropy(logits.view(B*T, C), yb.view(B*T))

    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()

print(loss.item())

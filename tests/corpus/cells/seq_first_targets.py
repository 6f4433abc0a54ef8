# Targets of a sequence-first LSTM, `y.t().reshape(T * B)`: only the rows of one micro-batch are side by side.  idiom: loader-module
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

vocab = 7
emb, lstm, fc = nn.Embedding(vocab, 4), nn.LSTM(4, 6), nn.Linear(6, vocab)
params = [*emb.parameters(), *lstm.parameters(), *fc.parameters()]
optimizer = torch.optim.Adam(params, lr=1e-2)
text = torch.randint(0, vocab, (13, 6))
loader = DataLoader(TensorDataset(text[:, :-1], text[:, 1:]), batch_size=5)
# %% cell
for x, y in loader:
    B, T = x.shape
    targets = y.t().reshape(T * B)
    optimizer.zero_grad()
    out, _ = lstm(emb(x.t()))
    loss = F.cross_entropy(fc(out).view(-1, vocab), targets)
    loss.backward()
    nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()
    print(loss.item())

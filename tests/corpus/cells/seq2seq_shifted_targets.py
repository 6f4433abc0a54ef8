# decoder input tgt[:, :-1] and target tgt[:, 1:] cut in the body, pad ignored.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

PAD_IDX, V = 0, 10
src = torch.randint(1, V, (12, 5)); tgt = torch.randint(1, V, (12, 6))
tgt[::3, 4:] = PAD_IDX
train_iter = DataLoader(TensorDataset(src, tgt), batch_size=5)

class Seq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(V, 8)
        self.enc, self.dec = nn.GRU(8, 8, batch_first=True), nn.GRU(8, 8, batch_first=True)
        self.gen = nn.Linear(8, V)
    def forward(self, s, t):
        _, h = self.enc(self.e(s))
        o, _ = self.dec(self.e(t), h)
        return self.gen(o)

transformer = Seq2Seq()
loss_fn = nn.CrossEntropyLoss(ignore_index=PAD_IDX)
optimizer = torch.optim.Adam(transformer.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-9)
DEVICE = torch.device('cpu')
# %% cell
def train_epoch(model, optimizer):
    model.train()
    losses = 0
    for src, tgt in train_iter:
        src = src.to(DEVICE)
        tgt = tgt.to(DEVICE)

        tgt_input = tgt[:, :-1]
        logits = model(src, tgt_input)

        optimizer.zero_grad()
        tgt_out = tgt[:, 1:]
        loss = loss_fn(logits.reshape(-1, logits.shape[-1]), tgt_out.reshape(-1))
        loss.backward()

        optimizer.step()
        losses += loss.item()
    return losses / len(train_iter)

for epoch in range(1, 3):
    train_loss = train_epoch(transformer, optimizer)
    print(f"Epoch: {epoch}, Train loss: {train_loss:.3f}")

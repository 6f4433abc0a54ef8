# A helper's square mask is as wide as the batch: which of its dimensions is the batch, or none, cannot be told.  idiom: time-major
# options: --dim src=1,tgt=1
# when: run
# %% setup
import torch
import torch.nn as nn
PAD_IDX, V, DEVICE = 0, 14, torch.device('cpu')
class Seq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(V, 8); self.t = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0); self.out = nn.Linear(8, V)
    def forward(self, src, trg, src_mask, tgt_mask, src_padding_mask, tgt_padding_mask, memory_key_padding_mask):
        o = self.t(self.emb(src), self.emb(trg), src_mask, tgt_mask, None, src_padding_mask, tgt_padding_mask, memory_key_padding_mask)
        return self.out(o)
def seqs(n, L):
    lens = torch.randint(3, L + 1, (n,)); lens[0] = L
    return (torch.randint(1, V, (n, L)) * (torch.arange(L) < lens[:, None])).T.contiguous()
train_dataloader = [(seqs(6, 6), seqs(6, 7)), (seqs(6, 6), seqs(6, 8)), (seqs(5, 5), seqs(5, 7))]
transformer = Seq2Seq()
loss_fn = torch.nn.CrossEntropyLoss(ignore_index=PAD_IDX)
optimizer = torch.optim.SGD(transformer.parameters(), lr=0.1)
# %% cell
def generate_square_subsequent_mask(sz):
    mask = (torch.triu(torch.ones((sz, sz), device=DEVICE)) == 1).transpose(0, 1)
    mask = mask.float().masked_fill(mask == 0, float('-inf')).masked_fill(mask == 1, float(0.0))
    return mask

def create_mask(src, tgt):
    src_seq_len = src.shape[0]
    tgt_seq_len = tgt.shape[0]
    tgt_mask = generate_square_subsequent_mask(tgt_seq_len)
    src_mask = torch.zeros((src_seq_len, src_seq_len), device=DEVICE).type(torch.bool)
    src_padding_mask = (src == PAD_IDX).transpose(0, 1)
    tgt_padding_mask = (tgt == PAD_IDX).transpose(0, 1)
    return src_mask, tgt_mask, src_padding_mask, tgt_padding_mask

def train_epoch(model, optimizer):
    model.train()
    losses = 0
    for src, tgt in train_dataloader:
        src = src.to(DEVICE)
        tgt = tgt.to(DEVICE)

        tgt_input = tgt[:-1, :]

        src_mask, tgt_mask, src_padding_mask, tgt_padding_mask = create_mask(src, tgt_input)

        logits = model(src, tgt_input, src_mask, tgt_mask,src_padding_mask, tgt_padding_mask, src_padding_mask)

        optimizer.zero_grad()

        tgt_out = tgt[1:, :]
        loss = loss_fn(logits.reshape(-1, logits.shape[-1]), tgt_out.reshape(-1))
        loss.backward()

        optimizer.step()
        losses += loss.item()

    return losses / len(list(train_dataloader))

for epoch in range(1, 3):
    train_loss = train_epoch(transformer, optimizer)
    print((f"Epoch: {epoch}, Train loss: {train_loss:.3f}"))
# %% refused
# `src_mask` has the shape (6, 6), and which dimension is the batch of 6 cannot be told
# --dim src_mask=2 if it has none

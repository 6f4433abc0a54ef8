# Batches padded to lengths of their own stay one per loader batch; only device moves and casts see them before the forward.  idiom: window
# options: --window
# ignore: batch, ids, mask (the plain cell pads its larger batches further)
# %% setup
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

texts = [torch.randint(1, 9, (3 + i % 5,)) for i in range(22)]
labels = torch.randint(0, 2, (22,))

def collate(rows):
    ids = pad_sequence([texts[i] for i in rows], batch_first=True)
    return {"ids": ids, "mask": ids != 0, "labels": labels[rows]}

class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, ids, mask):
        weights = mask.double().unsqueeze(-1)
        return self.head((self.embedding(ids) * weights).sum(1) / weights.sum(1))

loader = DataLoader(range(22), batch_size=3 * WINDOW, collate_fn=collate)
model = Classifier()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
device = "cpu"
# %% cell
losses = []
for batch in loader:
    batch = {k: v.to(device) for k, v in batch.items()}
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(batch["ids"], batch["mask"]), batch["labels"])
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

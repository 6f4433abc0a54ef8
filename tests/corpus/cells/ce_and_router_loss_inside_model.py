# a model that returns CE over labels it shifts itself, plus a mean over its hidden states.  idiom: hf-loss
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader

class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 6), nn.Linear(6, 9)

    def forward(self, input_ids, labels):
        hidden = self.embed(input_ids)
        logits = self.head(hidden)
        shifted = F.pad(labels, (0, 1), value=-100)[:, 1:].contiguous()
        loss = F.cross_entropy(logits.view(-1, 9), shifted.view(-1))
        return loss + 0.01 * hidden.square().mean(), logits

rows = []
for i in range(22):
    ids = torch.randint(0, 9, (7,))
    labels = ids.clone()
    labels[: 1 + i % 6] = -100
    rows.append({"input_ids": ids, "labels": labels})
loader = DataLoader(rows, batch_size=8)
model = LanguageModel()
optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
# %% cell
losses = []
for batch in loader:
    loss, logits = model(**batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

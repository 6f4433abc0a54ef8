# --window over batches of different lengths that the cell reads as a whole.  idiom: window
# options: --window
# when: run
# %% setup
import torch
from torch import nn
loader = [(torch.randint(1, 9, (3, length)), torch.randint(0, 2, (3,))) for length in (4, 6, 5)]
embedding, head = nn.Embedding(9, 4), nn.Linear(4, 2)
optimizer = torch.optim.SGD([*embedding.parameters(), *head.parameters()], lr=0.1)
# %% cell
for ids, labels in loader:
    mask = (ids != 0)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(head((embedding(ids) * mask[..., None]).mean(1)), labels)
    loss.backward()
    optimizer.step()
# %% refused
# --window: loader batches of the shapes (3, 4) and (3, 6) (dynamic padding) cannot be put together
# pad all batches to one length

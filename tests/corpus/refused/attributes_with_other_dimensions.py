# torchtext, time first: the attributes of a batch count their samples in different dimensions.  idiom: attribute-batch
# when: run
# %% setup
import torch
import torch.nn as nn
class Batch:
    def __init__(self, n):
        self.text, self.label = torch.randint(0, 30, (5, n)), torch.randint(0, 2, (n,)).double()
train_iterator = [Batch(8), Batch(6)]
embedding, fc = nn.Embedding(30, 6), nn.Linear(6, 1)
optimizer = torch.optim.SGD([*embedding.parameters(), *fc.parameters()], lr=0.1)
criterion = nn.BCEWithLogitsLoss()
# %% cell
for batch in train_iterator:
    optimizer.zero_grad()
    predictions = fc(embedding(batch.text).mean(0)).squeeze(1)
    loss = criterion(predictions, batch.label)
    loss.backward()
    optimizer.step()
# %% refused
line 3
`batch.text` has 5 rows and `batch.label` has 8 rows

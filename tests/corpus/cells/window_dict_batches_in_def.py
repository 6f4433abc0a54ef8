# A function of another cell is windowed: dict batches with texts, in a generator.  idiom: window
# options: --window
# ignore: SIZE (the plain cell has larger batches)
# %% setup
import torch
from torch import nn

features, targets = torch.randn(26, 6), torch.randint(0, 3, (26,))
texts = [f"text {i}" for i in range(26)]

def batches(size):
    for i in range(0, 26, size):
        yield {"x": features[i : i + size], "labels": targets[i : i + size], "text": texts[i : i + size], "split": "train"}

def train_one_epoch(model, size, optimizer):
    seen = []
    for batch in batches(size):
        inputs = {k: v.double() for k, v in batch.items() if k == "x"}
        optimizer.zero_grad()
        logits = model(inputs["x"])
        loss = nn.functional.cross_entropy(logits, batch["labels"])
        loss.backward()
        optimizer.step()
        seen.append((len(batch["text"]), batch["text"][-1], batch["split"], loss.item()))
    return seen

model = nn.Linear(6, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
SIZE = 4 * WINDOW
# %% cell
seen = [train_one_epoch(model, SIZE, optimizer) for _ in range(2)]

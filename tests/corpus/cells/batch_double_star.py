# model(**batch) of one's own returning (loss, logits).  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader

examples = [dict(x=torch.randn(3), y=torch.randint(0, 4, ())) for _ in range(10)]
loader = DataLoader(examples, batch_size=4)

class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    def forward(self, x, y):
        logits = self.net(x)
        return {"loss": self.loss(logits, y), "logits": logits}

model = Classifier()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
# %% cell
hits = 0
for batch in loader:
    out = model(**batch)
    optimizer.zero_grad()
    out["loss"].backward()
    optimizer.step()
    hits += (out["logits"].argmax(-1) == batch["y"]).sum().item()
print(hits, "of", len(loader.dataset))

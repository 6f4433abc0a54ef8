# token tagging with ignore_index; whole rows are padding, so a micro-batch may hold no token.  idiom: loader-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

PAD = 0
tok = torch.randint(1, 12, (14, 5)); tag = torch.randint(1, 4, (14, 5))
lengths = torch.tensor([5, 0, 1, 3, 0, 2, 5, 4, 0, 0, 1, 2, 5, 3])
pad = torch.arange(5)[None, :] >= lengths[:, None]
tok[pad] = PAD; tag[pad] = PAD
loader = DataLoader(TensorDataset(tok, tag), batch_size=6)
tagger = nn.Sequential(nn.Embedding(12, 6, padding_idx=PAD), nn.Linear(6, 4))
criterion = nn.CrossEntropyLoss(ignore_index=PAD)
optimizer = torch.optim.Adam(tagger.parameters(), lr=0.05)
# %% cell
n_tokens, correct = 0, 0
for words, tags in loader:
    optimizer.zero_grad()
    scores = tagger(words)
    loss = criterion(scores.view(-1, scores.shape[-1]), tags.view(-1))
    loss.backward()
    optimizer.step()
    keep = tags != PAD
    correct += (scores.argmax(-1)[keep] == tags[keep]).sum().item()
    n_tokens += keep.sum().item()
print(f"{loss.item():.4f} {correct}/{n_tokens}")

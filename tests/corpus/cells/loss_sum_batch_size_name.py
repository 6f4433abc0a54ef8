# batch_size = x.shape[0] read in the body, the loss divided by that name.  idiom: epochs-module
# %% setup
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

dl = DataLoader(TensorDataset(torch.randn(21, 5), torch.randint(0, 3, (21,))), batch_size=8, shuffle=True)
net = torch.nn.Linear(5, 3)
optim = torch.optim.Adam(net.parameters(), lr=0.02)
# %% cell
for epoch in range(2):
    n_seen, weighted = 0, 0.0
    for x, y in dl:
        batch_size = x.shape[0]
        logits = net(x)
        nll = F.cross_entropy(logits, y, reduction='sum')
        loss = nll / batch_size
        optim.zero_grad()
        loss.backward()
        optim.step()
        n_seen += batch_size
        weighted += batch_size * loss.item()
    print(f"epoch {epoch}: {weighted / n_seen:.4f} over {n_seen} samples")

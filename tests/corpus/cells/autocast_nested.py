# autocast nested: loss in a disabled autocast region with .float(); scaler disabled; scheduler only if scale unchanged.  idiom: epochs-module
# rtol: 2e-2
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset
dl = DataLoader(TensorDataset(torch.randn(22, 8).float(), torch.randint(0, 4, (22,))), batch_size=8)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).float()
opt = torch.optim.SGD(net.parameters(), lr=0.05)
scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=10)
criterion = nn.CrossEntropyLoss()
# %% cell
scaler = torch.amp.GradScaler("cpu", init_scale=2.**8)
for epoch in range(2):
    for xb, yb in dl:
        opt.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            feats = net[:2](xb)
            logits = net[2](feats)
            with torch.autocast("cpu", enabled=False):
                loss = criterion(logits.float(), yb)
        scaler.scale(loss).backward()
        scale_before = scaler.get_scale()
        scaler.step(opt)
        scaler.update()
        if scale_before <= scaler.get_scale():
            scheduler.step()
    print(epoch, f'{loss.item():.1f}', scheduler.get_last_lr())

# encoder and decoder with an optimizer each, one loss, both stepped; scheduler each.  idiom: two-optimizers
# %% setup
import torch
from torch import nn
enc, dec = nn.Linear(6, 3), nn.Linear(3, 6)
enc_optimizer = torch.optim.SGD(enc.parameters(), lr=0.1)
dec_optimizer = torch.optim.Adam(dec.parameters(), lr=0.01)
sch = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in (enc_optimizer, dec_optimizer)]
train_loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(26, 6), torch.zeros(26)), batch_size=8)
# %% cell
for epoch in range(2):
    epoch_loss = 0
    for bi, (image, _) in enumerate(train_loader):
        enc_optimizer.zero_grad(); dec_optimizer.zero_grad()
        rec = dec(torch.relu(enc(image)))
        loss = nn.functional.binary_cross_entropy_with_logits(rec, image, reduction='none').sum(dim=1).mean()
        loss.backward()
        enc_optimizer.step()
        dec_optimizer.step()
        epoch_loss += loss.data
        del rec, image
    for s in sch: s.step()
    print('epoch', epoch, float(epoch_loss) / (bi + 1))

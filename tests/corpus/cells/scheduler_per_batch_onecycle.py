# OneCycleLR stepped per batch, the learning rate recorded.  idiom: epochs-def
# %% setup
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

train_loader = DataLoader(TensorDataset(torch.randn(20, 6), torch.randint(0, 4, (20,))), batch_size=8, shuffle=True)
val_loader = DataLoader(TensorDataset(torch.randn(9, 6), torch.randint(0, 4, (9,))), batch_size=8)

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    def forward(self, xb):
        return self.net(xb)
    def training_step(self, batch):
        images, labels = batch
        out = self(images)
        return F.cross_entropy(out, labels)
    def validation_step(self, batch):
        images, labels = batch
        out = self(images)
        return {'val_loss': F.cross_entropy(out, labels).detach(), 'val_acc': (out.argmax(1) == labels).double().mean()}

@torch.no_grad()
def evaluate(model, val_loader):
    model.eval()
    outputs = [model.validation_step(batch) for batch in val_loader]
    return {k: torch.stack([o[k] for o in outputs]).mean().item() for k in outputs[0]}

def get_lr(optimizer):
    for param_group in optimizer.param_groups:
        return param_group['lr']

model = Base()
# %% cell
def fit_one_cycle(epochs, max_lr, model, train_loader, val_loader, weight_decay=0, grad_clip=None, opt_func=torch.optim.SGD):
    history = []

    # Set up custom optimizer with weight decay
    optimizer = opt_func(model.parameters(), max_lr, weight_decay=weight_decay)
    # Set up one-cycle learning rate scheduler
    sched = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr, epochs=epochs, steps_per_epoch=len(train_loader))

    for epoch in range(epochs):
        # Training Phase
        model.train()
        train_losses = []
        lrs = []
        for batch in train_loader:
            loss = model.training_step(batch)
            train_losses.append(loss)
            loss.backward()

            # Gradient clipping
            if grad_clip:
                nn.utils.clip_grad_value_(model.parameters(), grad_clip)

            optimizer.step()
            optimizer.zero_grad()

            # Record & update learning rate
            lrs.append(get_lr(optimizer))
            sched.step()

        # Validation phase
        result = evaluate(model, val_loader)
        result['train_loss'] = torch.stack(train_losses).mean().item()
        result['lrs'] = lrs
        history.append(result)
    return history

history = fit_one_cycle(2, 0.01, model, train_loader, val_loader, weight_decay=1e-4, grad_clip=0.1, opt_func=torch.optim.Adam)
print([round(h['train_loss'], 4) for h in history])

# ImageNet-style accuracy(output, target, topk=(1, 2)) under no_grad with AverageMeter objects.  idiom: loader-def
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class AverageMeter(object):
    """Computes and stores the average and current value"""
    def __init__(self, name, fmt=':f'):
        self.name, self.fmt = name, fmt
        self.val = self.avg = self.sum = self.count = 0
    def update(self, val, n=1):
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count
    def __str__(self):
        return ('{name} {val' + self.fmt + '} ({avg' + self.fmt + '})').format(**self.__dict__)

def accuracy(output, target, topk=(1,)):
    with torch.no_grad():
        maxk = max(topk)
        batch_size = target.size(0)
        _, pred = output.topk(maxk, 1, True, True)
        pred = pred.t()
        correct = pred.eq(target.view(1, -1).expand_as(pred))
        return [correct[:k].reshape(-1).double().sum(0, keepdim=True).mul_(100.0 / batch_size) for k in topk]

train_loader = DataLoader(TensorDataset(torch.randn(17, 6), torch.randint(0, 5, (17,))), batch_size=6)
model = nn.Linear(6, 5)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
# %% cell
def train(train_loader, model, criterion, optimizer, epoch, print_freq=2):
    losses = AverageMeter('Loss', ':.4e')
    top1 = AverageMeter('Acc@1', ':6.2f')
    top2 = AverageMeter('Acc@2', ':6.2f')
    model.train()
    for i, (images, target) in enumerate(train_loader):
        # compute output
        output = model(images)
        loss = criterion(output, target)

        # measure accuracy and record loss
        acc1, acc2 = accuracy(output, target, topk=(1, 2))
        losses.update(loss.item(), images.size(0))
        top1.update(acc1[0].item(), images.size(0))
        top2.update(acc2[0].item(), images.size(0))

        # compute gradient and do SGD step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        if i % print_freq == 0:
            print(epoch, i, losses, top1, top2)
    return losses.avg, top1.avg, top2.avg

summary = train(train_loader, model, criterion, optimizer, 0)

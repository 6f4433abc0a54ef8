# phases with torch.set_grad_enabled, backward in an if, phases dict of loaders.  idiom: backward-under-if
# %% setup
import torch, copy
from torch import nn
model = nn.Linear(4, 3); criterion = nn.CrossEntropyLoss()
mk = lambda n: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(n, 4), torch.randint(0, 3, (n,))), batch_size=8)
dataloaders = {'train': mk(26), 'val': mk(9)}
dataset_sizes = {x: len(dataloaders[x].dataset) for x in ['train', 'val']}
optimizer = torch.optim.SGD(model.parameters(), lr=0.1); scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
# %% cell
best_acc, best_model_wts = 0.0, copy.deepcopy(model.state_dict())
for epoch in range(2):
    for phase in ['train', 'val']:
        model.train() if phase == 'train' else model.eval()
        running_loss = 0.0
        running_corrects = 0
        for inputs, labels in dataloaders[phase]:
            optimizer.zero_grad()
            with torch.set_grad_enabled(phase == 'train'):
                outputs = model(inputs)
                _, preds = torch.max(outputs, 1)
                loss = criterion(outputs, labels)
                if phase == 'train':
                    loss.backward()
                    optimizer.step()
            running_loss += loss.item() * inputs.size(0)
            running_corrects += torch.sum(preds == labels.data)
        if phase == 'train':
            scheduler.step()
        epoch_loss = running_loss / dataset_sizes[phase]
        epoch_acc = running_corrects.double() / dataset_sizes[phase]
        print(f'{phase} Loss: {epoch_loss:.4f} Acc: {epoch_acc:.4f}')
        if phase == 'val' and epoch_acc > best_acc:
            best_acc = epoch_acc
            best_model_wts = copy.deepcopy(model.state_dict())
model.load_state_dict(best_model_wts)

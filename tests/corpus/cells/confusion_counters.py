# a confusion matrix filled sample by sample and tp/fp counters from the train predictions.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(18, 4), torch.randint(0, 3, (18,))), batch_size=7)
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
nb_classes = 3
# %% cell
for epoch in range(2):
    confusion_matrix = torch.zeros(nb_classes, nb_classes, dtype=torch.long)
    tp = fp = 0
    for inputs, classes in loader:
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, classes)
        loss.backward()
        optimizer.step()
        _, preds = torch.max(outputs, 1)
        for t, p in zip(classes.view(-1), preds.view(-1)):
            confusion_matrix[t.long(), p.long()] += 1
        tp += ((preds == 1) & (classes == 1)).sum().item()
        fp += ((preds == 1) & (classes != 1)).sum().item()
print(confusion_matrix)
print(confusion_matrix.diag() / confusion_matrix.sum(1), tp, fp)

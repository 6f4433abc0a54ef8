# torchtext's batches: plain objects whose attributes hold the tensors, the texts with their lengths.  idiom: attribute-batch
# %% setup
import torch
import torch.nn as nn
class Batch:
    def __init__(self, n):
        self.text = (torch.randint(1, 30, (n, 7)), torch.randint(3, 8, (n,)))
        self.label = torch.randint(0, 2, (n,)).double()
        self.batch_size = n
    def __len__(self):
        return self.batch_size
train_iterator = [Batch(2), Batch(8), Batch(5)]
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.fc = nn.Embedding(30, 6), nn.Linear(6, 1)
    def forward(self, text, lengths):
        mask = torch.arange(text.size(1)) < lengths[:, None]
        return self.fc((self.emb(text) * mask.unsqueeze(2)).sum(1) / lengths[:, None])
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
criterion = nn.BCEWithLogitsLoss()
# %% cell
epoch_loss, epoch_acc = 0, 0
for batch in train_iterator:
    optimizer.zero_grad()
    text, text_lengths = batch.text
    predictions = model(text, text_lengths).squeeze(1)
    loss = criterion(predictions, batch.label)
    rounded = torch.round(torch.sigmoid(predictions))
    acc = (rounded == batch.label).float().mean()
    loss.backward()
    optimizer.step()
    epoch_loss += loss.item()
    epoch_acc += acc.item()
print(epoch_loss / len(train_iterator), epoch_acc / len(train_iterator))

# packed sequences, unsorted: the LSTM sorts them and sorts back, so each sample's prediction is its own.  idiom: loss-replay
# %% setup
import torch
import torch.nn as nn
def collate(n):
    lens = torch.randint(3, 8, (n,))
    return torch.randint(1, 30, (n, 7)), lens, torch.randint(0, 2, (n,)).double()
train_iterator = [collate(8), collate(8), collate(5)]
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.rnn, self.fc = nn.Embedding(30, 6), nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 1)
    def forward(self, text, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(self.emb(text), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (h, c) = self.rnn(packed)
        return self.fc(h[-1])
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
criterion = nn.BCEWithLogitsLoss()
# %% cell
epoch_loss, epoch_acc = 0, 0
for text, text_lengths, label in train_iterator:
    optimizer.zero_grad()
    predictions = model(text, text_lengths).squeeze(1)
    loss = criterion(predictions, label)
    acc = (torch.round(torch.sigmoid(predictions)) == label).float().mean()
    loss.backward()
    optimizer.step()
    epoch_loss += loss.item()
    epoch_acc += acc.item()
print(epoch_loss / len(train_iterator), epoch_acc / len(train_iterator))

# an RNN that makes its hidden state from x.size(0) inside forward, nothing carried over.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class SentimentRNN(nn.Module):
    def __init__(self, vocab=15, emb=5, hid=6):
        super().__init__()
        self.hid = hid
        self.embedding = nn.Embedding(vocab, emb)
        self.rnn = nn.RNN(emb, hid, batch_first=True)
        self.fc = nn.Linear(hid, 1)
    def forward(self, x):
        hidden = self.init_hidden(x.size(0))
        out, hidden = self.rnn(self.embedding(x), hidden)
        return torch.sigmoid(self.fc(out[:, -1])).squeeze(1)
    def init_hidden(self, batch_size):
        return torch.zeros(1, batch_size, self.hid)

train_loader = DataLoader(TensorDataset(torch.randint(0, 15, (13, 6)), torch.randint(0, 2, (13,))), batch_size=5)
net = SentimentRNN()
criterion = nn.BCELoss()
optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
print_every, clip, counter = 2, 5, 0
# %% cell
net.train()
for e in range(2):
    for inputs, labels in train_loader:
        counter += 1
        net.zero_grad()
        output = net(inputs)
        loss = criterion(output, labels.double())
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
        if counter % print_every == 0:
            print("Epoch: {}/{}...".format(e + 1, 2), "Step: {}...".format(counter), "Loss: {:.6f}...".format(loss.item()))

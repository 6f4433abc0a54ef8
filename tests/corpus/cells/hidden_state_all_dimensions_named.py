# time comes first: the options name the batch dimension of the hidden state and of what the step cuts out.  idiom: hidden-state
# options: --dim data=1,targets=1,hidden=1
# %% setup
import torch
from torch import nn

vocab, batch_size, bptt = 9, 5, 4
source = torch.randint(0, vocab, (13, batch_size))

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(vocab, 4), nn.GRU(4, 6), nn.Linear(6, vocab)

    def forward(self, x, hidden):
        out, hidden = self.rnn(self.embed(x), hidden)
        return self.head(out), hidden

model, criterion = Model(), nn.CrossEntropyLoss()
# %% cell
hidden = torch.zeros(1, batch_size, 6)
for i in range(0, len(source) - 1, bptt):
    data, targets = source[i : i + bptt], source[i + 1 : i + 1 + bptt]
    model.zero_grad()
    hidden = hidden.detach()
    output, hidden = model(data, hidden)
    loss = criterion(output.view(-1, vocab), targets.reshape(-1))
    loss.backward()
    for p in model.parameters():
        p.data.add_(p.grad, alpha=-0.5)

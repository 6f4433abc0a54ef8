# the batch is an object whose text has time first: its attributes are named, one with its batch dimension.  idiom: time-major
# options: --batch batch.text,batch.label --dim batch.text=1
# %% setup
from types import SimpleNamespace
import torch
from torch import nn

iterator = [SimpleNamespace(text=torch.randint(0, 9, (4, n)), label=torch.rand(n).round()) for n in (5, 5, 3)]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(9, 4), nn.RNN(4, 6), nn.Linear(6, 1)

    def forward(self, text):
        return self.head(self.rnn(self.embed(text))[1][0])

model, criterion = Net(), nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
# %% cell
for batch in iterator:
    optimizer.zero_grad()
    predictions = model(batch.text).squeeze(1)
    loss = criterion(predictions, batch.label)
    loss.backward()
    optimizer.step()
    print(loss.item())

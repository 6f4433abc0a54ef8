# states are carried over windows of time of one fixed batch; only their batch dimension is named.  idiom: hidden-state
# options: --dim states=1
# %% setup
import torch
from torch import nn

vocab, hidden_size, batch_size, seq_length = 9, 5, 6, 4
ids = torch.randint(0, vocab, (batch_size, 13))

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(vocab, 4), nn.Linear(hidden_size, vocab)
        self.lstm = nn.LSTM(4, hidden_size, batch_first=True)

    def forward(self, x, states):
        out, states = self.lstm(self.embed(x), states)
        return self.head(out).reshape(-1, vocab), states

model, criterion, device = Model(), nn.CrossEntropyLoss(), torch.device("cpu")
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
# %% cell
def detach(states):
    return [state.detach() for state in states]

states = [torch.zeros(1, batch_size, hidden_size), torch.zeros(1, batch_size, hidden_size)]
for i in range(0, ids.size(1) - seq_length, seq_length):
    inputs = ids[:, i : i + seq_length].to(device)
    targets = ids[:, i + 1 : i + 1 + seq_length].to(device)
    states = detach(states)
    outputs, states = model(inputs, states)
    loss = criterion(outputs, targets.reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())

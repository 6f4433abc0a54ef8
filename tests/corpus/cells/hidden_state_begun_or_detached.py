# d2l's RNN: `if state is None:` begins the hidden state, `else:` detaches the last batch's.  idiom: hidden-state
# options: --dim state=1
# %% setup
import torch
from torch import nn


class RNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.linear = nn.RNN(7, 5), nn.Linear(5, 7)

    def forward(self, inputs, state):
        y, state = self.rnn(nn.functional.one_hot(inputs.T, 7).double(), state)
        return self.linear(y.reshape((-1, y.shape[-1]))), state

    def begin_state(self, batch_size):
        return torch.zeros((1, batch_size, 5))


net = RNN()
loss = nn.CrossEntropyLoss()
updater = torch.optim.SGD(net.parameters(), lr=0.5)
train_iter = [(torch.randint(0, 7, (6, 4)), torch.randint(0, 7, (6, 4))) for _ in range(3)]
# %% cell
state, total = None, 0
for X, Y in train_iter:
    if state is None:
        state = net.begin_state(batch_size=X.shape[0])
    else:
        state.detach_()
    y = Y.T.reshape(-1)
    y_hat, state = net(X, state)
    l = loss(y_hat, y.long()).mean()
    updater.zero_grad()
    l.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1)
    updater.step()
    total += l.item() * y.numel()

# x.transpose(0, 1) to time-major before an RNN; loss over last state; options name nothing.  idiom: time-major
# %% setup
import torch
from torch import nn
emb, rnn, fc = nn.Embedding(12, 4), nn.GRU(4, 6), nn.Linear(6, 1)
opt = torch.optim.Adam([p for m in (emb, rnn, fc) for p in m.parameters()], lr=1e-2)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randint(0, 12, (26, 9)), torch.randint(0, 2, (26,))), batch_size=8)
criterion = nn.BCEWithLogitsLoss()
# %% cell
epoch_loss = epoch_acc = 0
for text, label in loader:
    text = text.transpose(0, 1)
    opt.zero_grad()
    embedded = emb(text)
    output, hidden = rnn(embedded)
    predictions = fc(hidden[-1]).squeeze(1)
    loss = criterion(predictions, label.to(predictions.dtype))
    loss.backward()
    opt.step()
    acc = (torch.round(torch.sigmoid(predictions)) == label).double().mean()
    epoch_loss += loss.item(); epoch_acc += acc.item()
epoch_loss / len(loader), epoch_acc / len(loader)

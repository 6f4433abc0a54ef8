# names-by-characters MLP: p.grad = None and p.data += -lr * p.grad, minibatch by randint.  idiom: sampling
# %% setup
import torch
import torch.nn.functional as F

block_size, vocab = 3, 9
Xtr = torch.randint(0, vocab, (40, block_size))
Ytr = torch.randint(0, vocab, (40,))
g = torch.Generator().manual_seed(2147483647)
C = torch.randn((vocab, 4), generator=g)
W1 = torch.randn((12, 16), generator=g) * 0.3
b1 = torch.randn(16, generator=g) * 0.1
W2 = torch.randn((16, vocab), generator=g) * 0.3
b2 = torch.zeros(vocab)
parameters = [C, W1, b1, W2, b2]
for p in parameters:
    p.requires_grad = True
lossi, stepi = [], []
# %% cell
for i in range(7):

    # minibatch construct
    ix = torch.randint(0, Xtr.shape[0], (11,))

    # forward pass
    emb = C[Xtr[ix]] # (11, 3, 4)
    h = torch.tanh(emb.view(-1, 12) @ W1 + b1)
    logits = h @ W2 + b2
    loss = F.cross_entropy(logits, Ytr[ix])

    # backward pass
    for p in parameters:
        p.grad = None
    loss.backward()

    # update
    lr = 0.1 if i < 5 else 0.01
    for p in parameters:
        p.data += -lr * p.grad

    # track stats
    stepi.append(i)
    lossi.append(loss.log10().item())

print(loss.item())

# the slice stands inside the call: model(X[b]) and Y[b], drawn with numpy.  idiom: sampling
# %% setup
import torch
import numpy as np
import torch.nn as nn
import torch.nn.functional as F

X_train = torch.rand(26, 2, 3)
Y_train = torch.randint(0, 5, (26,))
model = nn.Sequential(nn.Flatten(1), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
optim = torch.optim.Adam(model.parameters())
BS = 9
losses, accuracies = [], []
# %% cell
for i in range(4):
    samp = np.random.randint(0, X_train.shape[0], size=(BS))
    X = X_train[samp]
    Y = Y_train[samp]
    optim.zero_grad()
    out = model(X)
    cat = torch.argmax(out, dim=1)
    accuracy = (cat == Y).double().mean()
    loss = F.cross_entropy(out, Y)
    loss.backward()
    optim.step()
    loss, accuracy = loss.item(), accuracy.item()
    losses.append(loss)
    accuracies.append(accuracy)
    print("loss %.2f accuracy %.2f" % (loss, accuracy))

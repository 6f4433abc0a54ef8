# d2l style: linreg, squared_loss with reduction by .mean() at backward, sgd helper.  idiom: epochs-module
# %% setup
import torch, random

true_w = torch.tensor([2., -3.4]); true_b = 4.2
features = torch.normal(0., 1., (23, 2))
labels = (features @ true_w + true_b + torch.normal(0., 0.01, (23,))).reshape(-1, 1)

def data_iter(batch_size, features, labels):
    num_examples = len(features)
    indices = list(range(num_examples))
    random.shuffle(indices)
    for i in range(0, num_examples, batch_size):
        batch_indices = torch.tensor(indices[i:min(i + batch_size, num_examples)])
        yield features[batch_indices], labels[batch_indices]

def linreg(X, w, b):
    return torch.matmul(X, w) + b

def squared_loss(y_hat, y):
    return (y_hat - y.reshape(y_hat.shape)) ** 2 / 2

def sgd(params, lr, batch_size):
    with torch.no_grad():
        for param in params:
            param -= lr * param.grad / batch_size
            param.grad.zero_()

w = torch.normal(0., 0.01, size=(2, 1), requires_grad=True)
b = torch.zeros(1, requires_grad=True)
lr = 0.3
num_epochs = 2
batch_size = 8
net = linreg
loss = squared_loss
# %% cell
for epoch in range(num_epochs):
    for X, y in data_iter(batch_size, features, labels):
        l = loss(net(X, w, b), y)  # minibatch loss of X and y
        # l has shape (batch_size, 1): its sum gives the gradient w.r.t. [w, b]
        l.sum().backward()
        sgd([w, b], lr, batch_size)
    with torch.no_grad():
        train_l = loss(net(features, w, b), labels)
        print(f'epoch {epoch + 1}, loss {float(train_l.mean()):f}')

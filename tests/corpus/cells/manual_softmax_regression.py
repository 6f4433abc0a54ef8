# logistic regression with hand-written softmax, weights.grad zeroed, fastai's first lesson.  idiom: slicing
# %% setup
import torch, math

x_train = torch.rand(27, 12)
y_train = torch.randint(0, 10, (27,))
weights = torch.randn(12, 10) / math.sqrt(12)
weights.requires_grad_()
bias = torch.zeros(10, requires_grad=True)
n, c = x_train.shape
bs = 8

def log_softmax(x):
    return x - x.exp().sum(-1).log().unsqueeze(-1)

def model(xb):
    return log_softmax(xb @ weights + bias)

def nll(input, target):
    return -input[range(target.shape[0]), target].mean()

loss_func = nll
# %% cell
lr = 0.5
epochs = 2

for epoch in range(epochs):
    for i in range((n - 1) // bs + 1):
        start_i = i * bs
        end_i = start_i + bs
        xb = x_train[start_i:end_i]
        yb = y_train[start_i:end_i]
        pred = model(xb)
        loss = loss_func(pred, yb)

        loss.backward()
        with torch.no_grad():
            weights -= weights.grad * lr
            bias -= bias.grad * lr
            weights.grad.zero_()
            bias.grad.zero_()

print(loss_func(model(xb), yb))

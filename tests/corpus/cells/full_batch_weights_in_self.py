# a regression's weights are attributes of its object, made in `fit`, and updated by hand.  idiom: method
# %% setup
import torch

X, y = torch.randn(9, 3), torch.randn(9)
# %% cell
class Regression:
    def __init__(self, lr=0.1):
        self.lr, self.losses = lr, []

    def fit(self, X, y):
        self.w = torch.zeros(X.shape[1], requires_grad=True)
        self.b = torch.zeros(1, requires_grad=True)
        for _ in range(3):
            y_hat = X @ self.w + self.b
            loss = ((y_hat - y) ** 2).mean()
            loss.backward()
            with torch.no_grad():
                self.w -= self.lr * self.w.grad
                self.b -= self.lr * self.b.grad
            self.w.grad.zero_()
            self.b.grad.zero_()
            self.losses.append(loss.item())
        return self

regression = Regression().fit(X, y)
regression.losses, regression.w

# manual SGD over model.parameters() under no_grad, then model.zero_grad().  idiom: full-batch
# %% setup
import torch

N_samples, D_in, H, D_out = 15, 10, 6, 3
x = torch.randn(N_samples, D_in)
y = torch.randn(N_samples, D_out)
model = torch.nn.Sequential(torch.nn.Linear(D_in, H), torch.nn.ReLU(), torch.nn.Linear(H, D_out))
loss_fn = torch.nn.MSELoss(reduction='sum')
learning_rate = 1e-3
# %% cell
for t in range(6):
    y_pred = model(x)
    loss = loss_fn(y_pred, y)
    print(t, loss.item())
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for param in model.parameters():
            param -= learning_rate * param.grad

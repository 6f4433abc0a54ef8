# a model that is a plain function is given its trainable parameters, one by one, in a call.  idiom: epochs-def
# %% setup
import torch

t_u, t_c = torch.randn(11), torch.randn(11)
params = torch.tensor([1.0, 0.0], requires_grad=True)
optimizer = torch.optim.Adam([params], lr=0.1)

def model(t_u, w, b):
    return w * t_u + b

def loss_fn(t_p, t_c):
    return ((t_p - t_c) ** 2).mean()
# %% cell
def training_loop(n_epochs, optimizer, params, t_u, t_c):
    for epoch in range(1, n_epochs + 1):
        t_p = model(t_u, *params)
        loss = loss_fn(t_p, t_c)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"epoch {epoch}, loss {loss.item():.4f}")
    return params

training_loop(3, optimizer, params, t_u, t_c)

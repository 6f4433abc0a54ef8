# a closure as the documentation of LBFGS has it for torch.no_grad: `if loss.requires_grad: loss.backward()`.  idiom: closure
# %% setup
import torch
from torch import nn

loader = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(torch.randn(23, 3), torch.randn(23, 1)), batch_size=12
)
model = nn.Linear(3, 1)
criterion = nn.MSELoss()
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
# %% cell
running = 0.0
for epoch in range(2):
    for inputs, targets in loader:
        def closure():
            if torch.is_grad_enabled():
                optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            if loss.requires_grad:
                loss.backward()
            return loss
        optimizer.step(closure)
        with torch.no_grad():
            running += closure().item()
print(running)

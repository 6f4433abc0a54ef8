# VAE with eps drawn before the forward; loss = BCE(sum) + KLD(sum), reported per data set.  idiom: epochs-module
# %% setup
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

class VAE(nn.Module):
    def __init__(self, d=12, h=8, z=2):
        super().__init__()
        self.z = z
        self.fc1 = nn.Linear(d, h); self.fc21 = nn.Linear(h, z); self.fc22 = nn.Linear(h, z)
        self.fc3 = nn.Linear(z, h); self.fc4 = nn.Linear(h, d)
    def forward(self, x, eps):
        h1 = F.relu(self.fc1(x))
        mu, logvar = self.fc21(h1), self.fc22(h1)
        z = mu + eps * torch.exp(0.5 * logvar)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar

def loss_function(recon_x, x, mu, logvar):
    BCE = F.binary_cross_entropy(recon_x, x, reduction='sum')
    KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return BCE + KLD

train_loader = DataLoader(TensorDataset(torch.rand(17, 12), torch.zeros(17)), batch_size=7, shuffle=True)
device = torch.device("cpu")
model = VAE().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
# %% cell
for epoch in range(1, 3):
    model.train()
    train_loss = 0
    for batch_idx, (data, _) in enumerate(train_loader):
        data = data.to(device)
        eps = torch.randn(data.size(0), model.z, device=device)
        optimizer.zero_grad()
        recon_batch, mu, logvar = model(data, eps)
        loss = loss_function(recon_batch, data, mu, logvar)
        loss.backward()
        train_loss += loss.item()
        optimizer.step()
    print('====> Epoch: {} Average loss: {:.4f}'.format(epoch, train_loss / len(train_loader.dataset)))

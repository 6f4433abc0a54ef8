# knowledge distillation: teacher under no_grad, KL(batchmean) * T*T plus cross entropy.  idiom: loader-def
# %% setup
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

teacher = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
student = nn.Linear(5, 4)
loader = DataLoader(TensorDataset(torch.randn(17, 5), torch.randint(0, 4, (17,))), batch_size=7)
optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
# %% cell
def train_kd(teacher, student, train_loader, optimizer, T=2.0, soft_w=0.25, ce_w=0.75):
    ce_loss = nn.CrossEntropyLoss()
    student.train()
    running = 0.0
    for inputs, labels in train_loader:
        optimizer.zero_grad()
        # forward pass with the teacher: its weights do not change
        with torch.no_grad():
            teacher_logits = teacher(inputs)
        student_logits = student(inputs)
        soft_loss = F.kl_div(F.log_softmax(student_logits / T, dim=-1), F.softmax(teacher_logits / T, dim=-1),
                             reduction="batchmean") * (T ** 2)
        label_loss = ce_loss(student_logits, labels)
        loss = soft_w * soft_loss + ce_w * label_loss
        loss.backward()
        optimizer.step()
        running += loss.item()
    return running / len(train_loader)

print(f"KD loss {train_kd(teacher, student, loader, optimizer):.5f}")

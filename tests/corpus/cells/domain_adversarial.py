# DANN: a class loss and two domain losses, whose targets are made of zeros and ones in the step.  idiom: several-losses
# %% setup
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset
src_dl = DataLoader(TensorDataset(torch.randn(26, 5), torch.randint(0, 3, (26,))), batch_size=8)
tgt_dl = DataLoader(TensorDataset(torch.randn(26, 5)), batch_size=8)
feat, clf, dom = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 2)
opt = torch.optim.SGD([*feat.parameters(), *clf.parameters(), *dom.parameters()], lr=1e-1)
# %% cell
loss_class, loss_domain = nn.NLLLoss(), nn.NLLLoss()
for i, ((s_img, s_label), (t_img,)) in enumerate(zip(src_dl, tgt_dl)):
    opt.zero_grad()
    f = torch.relu(feat(s_img))
    class_output = torch.log_softmax(clf(f), 1)
    domain_output = torch.log_softmax(dom(f), 1)
    err_s_label = loss_class(class_output, s_label)
    err_s_domain = loss_domain(domain_output, torch.zeros(len(s_label)).long())
    domain_output = torch.log_softmax(dom(torch.relu(feat(t_img))), 1)
    err_t_domain = loss_domain(domain_output, torch.ones(t_img.shape[0]).long())
    err = err_t_domain + err_s_domain + err_s_label
    err.backward()
    opt.step()
    print(i, err_s_label.item(), err_s_domain.item(), err_t_domain.item())

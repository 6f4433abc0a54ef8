# a causal LM with -100 in the labels: the token mean lies inside the model, which computes it in float32.  idiom: loader-module
# rtol: 1e-5
# %% setup
import torch
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

model = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_positions=12, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
                                   resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
texts = []
for i in range(11):
    ids = torch.randint(0, 30, (10,))
    labels = ids.clone()
    labels[: 1 + i % 7] = -100
    texts.append({"input_ids": ids, "labels": labels})
loader = DataLoader(texts, batch_size=4)
optim = torch.optim.SGD(model.parameters(), lr=0.05)
# %% cell
losses = []
for step, batch in enumerate(loader):
    optim.zero_grad()
    outputs = model(input_ids=batch["input_ids"], labels=batch["labels"])
    loss = outputs.loss
    losses.append(loss.item())
    loss.backward()
    optim.step()
    print(f"step {step} ppl {torch.exp(loss).item():.3f}")
losses[-1]

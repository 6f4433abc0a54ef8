# a Hugging Face classifier from a config, outputs = model(**batch); loss = outputs.loss.  idiom: epochs-module
# %% setup
import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                    max_position_embeddings=16, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
model = BertForSequenceClassification(config)
rows = []
for i in range(13):
    n = 3 + i % 5
    rows.append({"input_ids": torch.cat([torch.randint(1, 40, (n,)), torch.zeros(8 - n, dtype=torch.long)]),
                 "attention_mask": (torch.arange(8) < n).long(), "labels": torch.tensor(i % 3)})
train_dataloader = DataLoader(rows, shuffle=True, batch_size=5)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
device = torch.device("cpu")
num_epochs = 1
# %% cell
from tqdm.auto import tqdm

num_training_steps = num_epochs * len(train_dataloader)
progress_bar = tqdm(range(num_training_steps), disable=True)

model.train()
for epoch in range(num_epochs):
    for batch in train_dataloader:
        batch = {k: v.to(device) for k, v in batch.items()}
        outputs = model(**batch)
        loss = outputs.loss
        loss.backward()

        optimizer.step()
        optimizer.zero_grad()
        progress_bar.update(1)
print(loss.item())

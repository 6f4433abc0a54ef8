# HF without Trainer: in-place dict move `for k in batch: batch[k] = batch[k].to(device)`, clip, scheduler.  idiom: epochs-module
# %% setup
import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup
config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                    max_position_embeddings=16, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
model = BertForSequenceClassification(config)
rows = [{"input_ids": torch.randint(1, 40, (7,)), "attention_mask": (torch.arange(7) < 3 + i % 5).long(),
         "labels": torch.tensor(i % 3)} for i in range(13)]
train_dl = DataLoader(rows, batch_size=5)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
device = torch.device("cpu")
EPOCHS = 2
# %% cell
scheduler = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=1, num_training_steps=len(train_dl) * EPOCHS)
train_losses = []
for epoch in range(EPOCHS):
    model.train()
    total_loss = 0
    for step, batch in enumerate(train_dl):
        for k in batch:
            batch[k] = batch[k].to(device)
        model.zero_grad()
        outputs = model(**batch)
        loss = outputs[0]
        total_loss += loss.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 2 == 0 and not step == 0:
            print('  Batch {:>5,}  of  {:>5,}.'.format(step, len(train_dl)), scheduler.get_last_lr())
    avg_train_loss = total_loss / len(train_dl)
    train_losses.append(avg_train_loss)
    print("  Average training loss: {0:.4f}".format(avg_train_loss))

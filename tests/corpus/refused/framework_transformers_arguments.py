# A real Hugging Face Trainer, made in an earlier cell: its own batch size is divided.  idiom: framework
# plain: no, it would write checkpoints and load a report of its own
# %% setup
import torch
from torch import nn
from transformers import Trainer, TrainingArguments
model = nn.Linear(4, 2)
arguments = TrainingArguments("unused", per_device_train_batch_size=32, use_cpu=True, report_to="none", save_strategy="no")
trainer = Trainer(model, arguments, train_dataset=[])
# %% cell
print("fine-tuning")
trainer.train()
# %% refused
# line 2
# gradient_accumulation_steps=2, per_device_train_batch_size=16

# The function that trains belongs to an installed package: its code is never rewritten.  idiom: follow-the-call
# %% setup
from accelerate.test_utils.scripts.test_sync import step_model
from torch import nn
import torch
from accelerate import Accelerator
accelerator = Accelerator(cpu=True)
model = nn.Linear(4, 1)
x, y = torch.randn(10, 4), torch.randn(10, 1)
# %% cell
for epoch in range(2):
    step_model(model, x, y, accelerator)
# %% refused
# line 2
# `step_model` trains, but belongs to an installed package (`accelerate`)
# Copy the function into the notebook

# Nothing below the magic line.  idiom: empty-cell
# %% setup
import torch
from torch import nn
import torch.nn.functional as F
# %% cell

# %% refused
# empty

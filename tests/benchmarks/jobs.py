"""Three jobs whose speed depends on the size of the micro-batches: a convolutional net, an MLP, a transformer.

What makes the plain batch slow on a CPU: tensors that do not fit the cache are written to memory and read back, and
glibc returns blocks of 32 MiB and more to the system when they are freed, so that each costs its page faults anew.
"""

from array import array
from dataclasses import dataclass

import torch
from torch import nn

ROWS = array("q", [0])  # samples of all forward passes of all models; no container that the probe would put back


class CountRows(nn.Module):
    """Counts the samples that enter a model; a hook of PyTorch's would make accum_magic's result approximate."""

    def forward(self, x):
        ROWS[0] += len(x)
        return x


@dataclass(frozen=True)
class Job:
    """A model and its full batch."""

    name: str
    what: str
    batch: int

    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(CountRows(), {"CNN": convolutional, "MLP": wide, "transformer": Transformer}[self.name]())

    def data(self, samples):
        torch.manual_seed(1)
        if self.name == "CNN":
            return torch.randn(samples, 3, 32, 32, dtype=torch.get_default_dtype()), torch.randint(10, (samples,))
        if self.name == "MLP":
            return torch.randn(samples, 64, dtype=torch.get_default_dtype()), torch.randint(10, (samples,))
        return torch.randint(100, (samples, 128)), torch.randint(100, (samples, 128))

    def namespace(self, samples=None):
        """The names of a notebook that is about to train; its loader has one batch."""
        model = self.model()
        return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=1e-3),
                "loader": [self.data(samples or self.batch)], "F": nn.functional, "torch": torch}  # fmt: skip


def convolutional():
    """Four convolutions with group norm, which looks at one sample at a time."""
    body = [*_convolution(3, 8), *_convolution(8, 8), nn.MaxPool2d(2), *_convolution(8, 16), *_convolution(16, 16)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def _convolution(channels_in, channels_out):
    return nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.GroupNorm(4, channels_out), nn.ReLU()


def wide():
    """Hidden layers that are much wider than what they stand between: more memory traffic than arithmetic."""
    body = [nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 1024), nn.ReLU()]
    return nn.Sequential(*body, nn.Linear(1024, 10))


class Transformer(nn.Module):
    """Two encoder layers that predict a class for each token."""

    def __init__(self, vocabulary=100, width=64):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.embed = nn.Embedding(vocabulary, width)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        return self.head(self.layers(self.embed(tokens))).transpose(1, 2)


JOBS = (
    Job("CNN", "4 convolutions with group norm, 32 x 32 x 3", 512),
    Job("MLP", "64-1024-64-1024-10", 8192),
    Job("transformer", "2 layers, d = 64, 128 tokens", 64),
)

"""`--explain` says before the run that BatchNorm makes it approximate, where the namespace tells; then the run does."""

import textwrap

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import accum_magic
from accum_magic import testing
from accum_magic.cell.explain import explain

UNKNOWN = "verdict: exact, unless the first step shows otherwise (BatchNorm, losses that are no mean or sum)"
NORMALISES = "verdict: approximate: BatchNorm in training mode ({}) normalises each micro-batch by itself"
TRAIN = """
for x, y in loader:
    loss = F.cross_entropy(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
PHASES = """
for phase in ["train", "val"]:
    if phase == "train":
        net.train()
    else:
        net.eval()
    for x, y in loader:
        optimizer.zero_grad()
        with torch.set_grad_enabled(phase == "train"):
            loss = F.cross_entropy(net(x), y)
            if phase == "train":
                loss.backward()
                optimizer.step()
"""


def block():
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


class Task:
    """A model and its optimizer, held by an object."""

    def __init__(self, net):
        self.net = net


@pytest.fixture
def namespace():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm1d(3), block(), nn.Linear(3, 4))
    data = TensorDataset(torch.randn(12, 3), torch.randint(0, 4, (12,)))
    return {
        "torch": torch, "F": F, "nn": nn, "net": net, "loader": DataLoader(data, batch_size=6), "task": Task(net),
        "optimizer": torch.optim.SGD(net.parameters(), lr=0.1), "by_hand": lambda x: net(x),  # noqa: PLW0108
        "deep": nn.Sequential(*[block() for _ in range(6)], nn.Linear(3, 4)),
    }  # fmt: skip


def verdict(cell, namespace):
    printed = explain(accum_magic.rewrite(cell, 2, namespace=namespace))
    return next(line for line in printed.splitlines() if line.startswith("verdict"))


@pytest.mark.parametrize(
    ("cell", "layers"),
    [
        (TRAIN, "`net.0`, `net.1.1`"),
        ("net.train()" + TRAIN, "`net.0`, `net.1.1`"),
        ("net.eval()\nnet.train(True)" + TRAIN, "`net.0`, `net.1.1`"),
        (PHASES, "`net.0`, `net.1.1`"),
        (TRAIN.replace("net(x)", "task.net(x)"), "`task.net.0`, `task.net.1.1`"),
        (TRAIN.replace("net(x)", "net.forward(x)"), "`net.0`, `net.1.1`"),
        (TRAIN + "net.eval()\n", "`net.0`, `net.1.1`"),
        (
            TRAIN.replace("net(x)", "deep(x)"),
            "`deep.0.1`, `deep.1.1`, `deep.2.1`, `deep.3.1` and 2 more",
        ),
    ],
)
def test_layers_in_training_mode_are_named(namespace, cell, layers):
    assert verdict(cell, namespace) == NORMALISES.format(layers)
    testing.run_accumulated(cell, namespace, 2)
    assert accum_magic.last_run().verdict == "approximate"


@pytest.mark.parametrize(
    "cell",
    [
        "net.eval()" + TRAIN,
        "net.train()\nnet.eval()" + TRAIN,
        "net.train(False)" + TRAIN,
        "task.net.eval()" + TRAIN.replace("net(x)", "task.net(x)"),
    ],
)
def test_layers_in_evaluation_mode_are_not(namespace, cell):
    assert verdict(cell, namespace) == UNKNOWN
    testing.run_accumulated(cell, namespace, 2)
    assert accum_magic.last_run().verdict == "exact"


def test_the_mode_of_now_counts_where_the_cell_sets_none(namespace):
    namespace["net"].eval()
    assert verdict(TRAIN, namespace) == UNKNOWN
    namespace["net"][1].train()
    assert verdict(TRAIN, namespace) == NORMALISES.format("`net.1.1`")
    assert verdict("net.train()" + TRAIN, namespace) == NORMALISES.format("`net.0`, `net.1.1`")


def test_only_what_the_micro_step_calls(namespace):
    frozen = "with torch.no_grad():\n    seen = net(next(iter(loader))[0])" + TRAIN.replace("net(x)", "head(x)")
    namespace["head"] = nn.Linear(3, 4)
    assert verdict(frozen, namespace) == UNKNOWN
    assert verdict(TRAIN.replace("net(x)", "net.tail(x)"), {**namespace, "net": Tailed()}) == UNKNOWN
    assert verdict(TRAIN.replace("net(x)", "net[2](x)"), namespace) == UNKNOWN
    penalty = "head(x), y) + sum(p.square().sum() for p in net.parameters()"
    assert verdict(TRAIN.replace("net(x), y", penalty), namespace) == UNKNOWN


class Tailed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.tail = nn.BatchNorm1d(3), nn.Linear(3, 4)


def test_what_the_namespace_does_not_tell_waits_for_the_probe(namespace):
    made_here = "net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4))" + TRAIN
    in_a_function = "def train(net):" + textwrap.indent(TRAIN, "    ") + "train(net)"
    for cell in (made_here, in_a_function, TRAIN.replace("net(x)", "by_hand(x)")):
        assert verdict(cell, namespace) == UNKNOWN

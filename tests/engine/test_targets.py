"""Targets in the memory of a batch: found through views, and nowhere else."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  as users write it

from accum_magic.engine.targets import find_targets

SAMPLES, SIZES = 10, (4, 3, 3)
generator = torch.Generator().manual_seed(0)
LABELS = torch.randint(0, 3, (SAMPLES, 4, 4), generator=generator)
LABELS[torch.rand(SAMPLES, 4, 4, generator=generator) < 0.4] = -100

# Per layout: the leaf of the batch, its batch dimension, and what the loss reads of a micro-batch.
VIEWS = {
    "itself": (LABELS[:, 0, 0].clone(), 0, lambda y: y),
    "all in one row": (LABELS, 0, lambda y: y.view(-1)),
    "as they are": (LABELS, 0, lambda y: y),
    "a column of a square": (LABELS[:, :, 0], 0, lambda y: y[:, 2]),
    "the first of two": (LABELS, 0, lambda y: y[:, :2]),
    "with the samples last": (LABELS, 0, lambda y: y.permute(1, 2, 0)),
    "time first": (LABELS[:, 0].t().contiguous(), 1, lambda y: y[3]),
    "beside the inputs": (LABELS.view(SAMPLES, 16)[:, 3:9], 0, lambda y: y[:, 2]),
}


def nll(target):
    log_probabilities = torch.zeros(target.numel(), 3, requires_grad=True)
    if target.dim() == 1:
        return F.nll_loss(log_probabilities, target).grad_fn
    planes = torch.zeros(target.shape[0], 3, *target.shape[1:], requires_grad=True)
    node = F.nll_loss(planes, target).grad_fn
    while not hasattr(node, "_saved_target"):
        node = node.next_functions[0][0]
    return node


def totals(leaf, dim, read):
    pieces = leaf.split(SIZES, dim)
    node = nll(read(pieces[0]))
    found = find_targets(node, {"y": pieces[0]}, {"y": leaf}, {"y": dim})
    return found and [float(total) for total in found.totals({"y": leaf}, SIZES)]


@pytest.mark.parametrize(("leaf", "dim", "read"), VIEWS.values(), ids=VIEWS)
def test_totals_are_those_of_each_micro_batch(leaf, dim, read):
    expected = [float((read(piece) != -100).sum()) for piece in leaf.split(SIZES, dim)]
    assert totals(leaf, dim, read) == expected


def test_labels_that_all_count_are_told_by_the_samples():
    assert totals(LABELS.clamp(min=0), 0, lambda y: y.view(-1)) == list(SIZES)


@pytest.mark.parametrize(
    ("leaf", "dim", "read"),
    [
        (LABELS, 0, torch.clone),
        (LABELS[:, 0].t().contiguous(), 1, lambda y: y.reshape(-1)),  # a copy, for a piece does not lie in a row
        (LABELS[:, 0, 0].clone(), 0, lambda y: y[:2]),
        (LABELS[:, 0, 0].clone(), 0, lambda y: y[1:]),
        (LABELS[:, 0, 0].clone(), 0, lambda y: y.flip(0)),
        (LABELS[:, 0], 0, lambda y: y[0]),  # as many values as samples, all of the first one
    ],
)
def test_what_is_no_view_of_every_sample_is_not_found(leaf, dim, read):
    assert totals(leaf, dim, read) is None

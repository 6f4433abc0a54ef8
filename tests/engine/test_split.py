"""Splitting: every container a loader may yield comes apart along its batch dimension and keeps its type."""

import dataclasses
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

from accum_magic.engine.split import UnequalRows, micro_batch_sizes, rows, split

X, Y = torch.arange(14.0).view(7, 2), torch.arange(7)
Pair = namedtuple("Pair", "x y")  # noqa: PYI024 - what collate functions of old notebooks return


@dataclasses.dataclass
class Batch:
    x: torch.Tensor
    y: torch.Tensor
    name: str = "a batch"


CONTAINERS = {
    "tensor": X,
    "list": [X, Y],
    "tuple": (X, Y),
    "dict": {"x": X, "y": Y, "scale": 2.0},
    "ordered dict": OrderedDict(x=X, y=Y),
    "named tuple": Pair(X, Y),
    "dataclass": Batch(X, Y),
    "BatchEncoding": BatchEncoding({"x": X, "y": Y}),
    "nested": {"inputs": (X, {"more": [Y]}), "none": None},
    "array": X.numpy(),
}


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, np.ndarray):
        return [torch.from_numpy(value)]
    if dataclasses.is_dataclass(value):
        return tensors([value.x, value.y])
    if hasattr(value, "values"):
        value = list(value.values())
    return [t for item in value or [] for t in tensors(item)] if isinstance(value, list | tuple) else []


@pytest.mark.parametrize("value", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("sizes", [(3, 2, 2), (7,), (1,) * 7])
def test_the_pieces_of_a_container_make_it_up_again(value, sizes):
    pieces = split(value, sizes, 0)
    assert rows(value, 0) == 7
    assert [type(p) for p in pieces] == [type(value)] * len(sizes)
    assert [rows(p, 0) for p in pieces] == list(sizes)
    for whole, *parts in zip(tensors(value), *map(tensors, pieces), strict=True):
        assert torch.equal(torch.cat(parts), whole)


def test_what_has_no_batch_dimension_is_handed_over_whole():
    pieces = split({"x": X, "temperature": torch.tensor(0.5), "name": "n"}, (4, 3), 0)
    assert [p["temperature"].item() for p in pieces] == [0.5, 0.5]
    assert [p["name"] for p in pieces] == ["n", "n"]


def test_a_batch_encoding_keeps_its_methods():
    first, _ = split(BatchEncoding({"input_ids": X}), (4, 3), 0)
    assert first.to("cpu")["input_ids"].shape == (4, 2)


def test_a_list_of_texts_is_cut_as_a_list():
    assert split(["a", "b", "c"], (2, 1), 0) == [["a", "b"], ["c"]]


def test_another_batch_dimension():
    assert [p.shape for p in split(X.t(), (4, 3), 1)] == [(2, 4), (2, 3)]
    assert rows(X.t(), 1) == 7


def test_pieces_are_views_of_the_batch():
    first, _ = split(X, (4, 3), 0)
    assert first.data_ptr() == X.data_ptr()


def test_tensors_that_disagree_are_named():
    with pytest.raises(UnequalRows) as caught:
        rows({"x": X, "y": Y[:5]}, 0)
    assert (caught.value.keys, caught.value.counts) == (("['x']", "['y']"), (7, 5))


@pytest.mark.parametrize(
    ("samples", "n", "size", "sizes"),
    [
        (10, 3, None, (4, 3, 3)),
        (10, None, 4, (4, 3, 3)),
        (3, 7, None, (1, 1, 1)),
        (8, 1, None, (8,)),
        (8, None, 100, (8,)),
        (9, None, 3, (3, 3, 3)),
    ],
)
def test_sizes_are_as_equal_as_they_can_be(samples, n, size, sizes):
    assert micro_batch_sizes(samples, n, size) == sizes


class Plain:
    """As torchtext's batches are."""

    def __init__(self, n):
        self.text, self.label = (torch.arange(n), torch.arange(n)), torch.arange(n)
        self.source, self.batch_size = "train", n


def test_a_plain_object_is_split_by_its_attributes():
    whole = Plain(5)
    first, second = split(whole, (3, 2), 0)
    assert [first.label.tolist(), second.text[1].tolist()] == [[0, 1, 2], [3, 4]]
    assert (type(first), first.source, first.batch_size, len(whole.label)) == (Plain, "train", 5, 5)


def test_an_object_with_parameters_is_no_batch():
    model = Plain(5)
    model.weight = torch.nn.Parameter(torch.ones(5))
    assert [piece is model for piece in split(model, (3, 2), 0)] == [True, True]

"""The view of a loader whose batches are N times larger: lengths, borders, what is put together and what is not."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import accum_magic
from accum_magic.engine.per_batch import PerBatch
from accum_magic.engine.split import split
from accum_magic.engine.window import borders, window


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@dataclass
class Sample:
    x: torch.Tensor
    name: str


class Batch:
    def __init__(self, text, label):
        self.text, self.label = text, label


def loader(size, samples=43, **options):
    data = TensorDataset(torch.arange(samples * 2.0).view(-1, 2), torch.arange(samples))
    return DataLoader(data, batch_size=size, **options)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 50])
def test_it_yields_what_a_loader_with_larger_batches_yields(n, drop_last):
    seen, expected = window(loader(4, drop_last=drop_last), n), loader(4 * n, drop_last=drop_last)
    assert len(seen) == len(expected)
    assert seen.batch_size == expected.batch_size
    assert seen.dataset.tensors[0].shape == expected.dataset.tensors[0].shape
    for (x, y), (a, b) in zip(seen, expected, strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)


def test_shuffling_draws_the_same_numbers():
    torch.manual_seed(0)
    seen = [y for _ in range(2) for _, y in window(loader(4, shuffle=True), 3)]
    torch.manual_seed(0)
    expected = [y for _ in range(2) for _, y in loader(12, shuffle=True)]
    assert all(map(torch.equal, seen, expected))


def test_an_iterator_goes_on_where_it_is():
    batches = iter(torch.arange(10).split(2))
    assert next(window(batches, 2)).tolist() == [0, 1, 2, 3]
    assert [x.tolist() for x in window(batches, 2)] == [[4, 5, 6, 7], [8, 9]]
    with pytest.raises(StopIteration):
        next(window(batches, 2))


def test_no_batch_is_taken_ahead_of_its_window():
    taken = []

    def batches():
        for i in range(5):
            taken.append(i)
            yield torch.tensor([i])

    seen = iter(window(batches(), 2))
    next(seen)
    assert taken == [0, 1]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: (x, x + 1),
        lambda x: [x, {"a": x}],
        lambda x: {"x": x, "texts": [str(int(v)) for v in x], "split": "train", "none": None},
        lambda x: Pair(x, x),
        lambda x: Sample(x, "name"),
        lambda x: Batch(x, x * 2),
        lambda x: x.numpy(),
    ],
)
def test_values_are_put_together_leaf_by_leaf(make):
    whole = make(torch.arange(6.0))
    joined = next(iter(window([make(torch.arange(4.0)), make(torch.arange(4.0, 6.0))], 2)))
    assert type(joined) is type(whole)
    assert plain(joined) == plain(whole)
    assert borders(6) == (4, 2)


def plain(value):
    match value:
        case torch.Tensor() | np.ndarray():
            return value.tolist()
        case dict():
            return {k: plain(v) for k, v in value.items()}
        case list() | tuple():
            return [plain(v) for v in value]
        case _ if hasattr(value, "__dict__"):
            return plain(vars(value))
        case _:
            return value


def test_batch_dimensions_are_those_of_the_values():
    batches = [(torch.ones(5, 3), torch.zeros(3)), (torch.ones(5, 2), torch.zeros(2))]
    x, y = next(iter(window(batches, 2, dims=(1, 0))))
    assert (x.shape, y.shape) == ((5, 5), (5,))
    assert borders(5) == (3, 2)
    assert next(iter(window([x, x], 2, dims=1))).shape == (5, 10)


def padded():
    return next(iter(window([torch.ones(3, 4), torch.ones(3, 6), torch.ones(2, 5)], 3)))


def test_what_cannot_be_put_together_stays_one_per_loader_batch():
    x = padded()
    assert isinstance(x, PerBatch)
    moved = x.to("cpu").double()
    assert [p.dtype for p in moved.parts] == [torch.float64] * 3
    assert [p.shape for p in split(moved, (3, 3, 2), 0)] == [(3, 4), (3, 6), (2, 5)]
    assert split({"x": x}, (2, 6), 0)[0]["x"].shape == (2, 4)


READS = {
    "an operator": lambda x: x + 1,
    "a function": torch.sum,
    "a keyword": lambda x: torch.sum(input=x),
    "a method": lambda x: x.view(-1),
    "a shape": lambda x: x.shape,
    "a length": len,
    "an index": lambda x: x[0],
    "a loop": list,
    "a number": float,
    "a comparison": lambda x: x == 0,
    "other borders": lambda x: x.split((4, 4)),
}


@pytest.mark.parametrize("read", READS)
def test_reading_it_whole_says_what_to_do(read):
    with pytest.raises(accum_magic.AccumulateError) as caught:
        READS[read](padded())
    assert str(caught.value) == (
        "--window: loader batches of the shapes (3, 4) and (3, 6) and (2, 5) (dynamic padding) cannot be put together, "
        "and this cell reads them as a whole outside of the forward pass. Read them inside the forward pass only, or "
        "pad all batches to one length."
    )

"""What a rescue says and does beside the gradients, which tests/engine/test_faults.py compares."""

import gc
import traceback
import weakref

import pytest
import torch
from torch import nn

import accum_magic
from accum_magic.engine.ceiling import Ceiling
from accum_magic.engine.events import MicroBatchRescued, StepDone
from accum_magic.engine.rescue import gave_up, once_more, smaller
from accum_magic.engine.split import micro_batch_sizes
from accum_magic.testing import run_accumulated, run_plain

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.00 MiB."
CELL = """
for x, y in batches:
    optimizer.zero_grad()
    loss = F.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
"""
TOO_MUCH = (
    "accum_magic: {}: out of memory with {} at once. Gradients, parameters and optimizer are as they were before this "
    "step. What is left is a smaller model, shorter samples, a lower precision, or activation checkpointing."
)


@pytest.fixture(scope="module", autouse=True)
def _collects_quickly():
    """Leave the objects of the libraries out of each rescue's collection of garbage: most of its time."""
    gc.freeze()
    yield
    gc.unfreeze()


class Watch:
    """Takes note of tensors, and of which are still there when the next one comes; keeps errors, as a logger may."""

    __slots__ = ("alive", "errors", "made")  # a dict of attributes would be put back after a failed forward

    def __init__(self):
        self.made, self.alive, self.errors = [], [], []

    def __call__(self, tensor):
        self.alive += [ref for ref in self.made if ref() is not None]
        self.made.append(weakref.ref(tensor))

    def out_of_memory(self):
        self.errors.append(torch.OutOfMemoryError(OUT_OF_MEMORY))
        return self.errors[-1]


class Holds(nn.Module):
    """A model on a device that holds so many samples; `watch` sees what it makes."""

    def __init__(self, samples, watch=None):
        super().__init__()
        self.linear, self.holds, self.watch = nn.Linear(2, 1).double(), samples, watch or Watch()

    def forward(self, x):
        made = self.linear(x)
        self.watch(made)
        if len(x) > self.holds:
            raise self.watch.out_of_memory()
        return torch.tanh(made)


def names(model, *, samples=8, steps=1):
    torch.manual_seed(0)
    with torch.no_grad():
        model.linear.weight.fill_(0.5)
        model.linear.bias.fill_(0.1)
    batches = [(torch.randn(samples, 2).double(), torch.randn(samples, 1).double()) for _ in range(steps)]
    return {
        "F": nn.functional, "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "batches": batches, "losses": [],
    }  # fmt: skip


def events(kind):
    return [event for event in accum_magic.last_run().events if isinstance(event, kind)]


# ---------------------------------------------------------------- what is said


def test_an_event_and_a_note_tell_of_it():
    run_accumulated(CELL, names(Holds(3)), 2)
    assert events(MicroBatchRescued) == [MicroBatchRescued(line=4, samples=4, pieces=2)]
    assert events(StepDone) == [StepDone(step=1, samples=8, micro_batches=4)]
    assert "1 micro-batch ran out of memory, and ran again in smaller pieces" in accum_magic.last_run().notes


def test_several_are_counted():
    run_accumulated(CELL, names(Holds(3), samples=16), 2)
    assert [(e.samples, e.pieces) for e in events(MicroBatchRescued)] == [(8, 2), (4, 2)]
    assert "2 micro-batches ran out of memory, and ran again in smaller pieces" in accum_magic.last_run().notes
    assert accum_magic.last_run().verdict == "exact"


def test_nothing_is_said_where_all_fits():
    run_accumulated(CELL, names(Holds(4)), 2)
    assert not events(MicroBatchRescued)
    assert not [note for note in accum_magic.last_run().notes if "memory" in note]


@pytest.mark.parametrize("n", [1, 2, 8])
def test_a_sample_that_does_not_fit_alone_is_told_with_what_is_left_to_do(n):
    namespace = names(Holds(9), steps=2)
    model = namespace["model"]
    run_accumulated(CELL, namespace, n)
    before = [(p.clone(), p.grad.clone()) for p in model.parameters()]
    cell = CELL.replace("    optimizer.zero_grad()\n", "")
    fresh = namespace | {"batches": namespace["batches"][:1]}
    model.linear.register_forward_hook(_fails_with_a_gradient)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run_accumulated(cell, fresh, n)
    assert str(caught.value) == OUT_OF_MEMORY
    assert caught.value.__notes__ == [TOO_MUCH.format("line 3", "a single sample")]
    for parameter, (value, gradient) in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert torch.equal(parameter.grad, gradient)


def _fails_with_a_gradient(_module, _args, out):
    out.register_hook(_raise)


def _raise(_gradient):
    raise torch.OutOfMemoryError(OUT_OF_MEMORY)


def test_the_samples_that_are_the_fewest_possible_are_named():
    error = gave_up(torch.OutOfMemoryError(OUT_OF_MEMORY), "line 5 of `fit`", 2)
    assert error.__notes__ == [TOO_MUCH.format("line 5 of `fit`", "2 samples, and fewer are not possible")]


def test_an_error_in_the_users_own_line_is_left_alone():
    cell = CELL + "    too_large()\n"

    def too_large():
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    told = {}
    for name, run in (("plain", run_plain), ("ours", lambda *given: run_accumulated(*given, 2))):
        with pytest.raises(torch.OutOfMemoryError) as caught:
            run(cell, names(Holds(8), steps=2) | {"too_large": too_large})
        frames = [f for f in traceback.extract_tb(caught.value.__traceback__) if f.filename.endswith("cell>")]
        told[name] = str(caught.value), getattr(caught.value, "__notes__", []), [(f.lineno, f.line) for f in frames]
    assert told["ours"] == told["plain"]
    assert not events(MicroBatchRescued)
    assert len(events(StepDone)) == 1


# ---------------------------------------------------------------- what is let go of


@pytest.mark.parametrize("n", [1, 2])
def test_the_pieces_run_without_what_the_failed_one_has_made(n):
    watch = Watch()
    run_accumulated(CELL, names(Holds(3, watch)), n)
    assert events(MicroBatchRescued)
    assert len(watch.made) > 1 + 8 // 3
    assert watch.errors
    assert not watch.alive


# ---------------------------------------------------------------- once more


class Fails:
    """A call that fails so many times."""

    def __init__(self, times, error=torch.OutOfMemoryError):
        self.times, self.error, self.calls, self.seen, self.kept = times, error, 0, None, None

    def __call__(self):
        self.calls += 1
        held = torch.ones(3)
        if self.calls > 1:
            assert self.seen() is None  # the first attempt's frame is cleared before the second one
        self.seen = weakref.ref(held)
        if self.calls <= self.times:
            self.kept = self.error(OUT_OF_MEMORY)
            raise self.kept
        return self.calls


def test_what_leaves_nothing_behind_is_called_once_more():
    assert once_more(Fails(0)) == 1
    assert once_more(Fails(1)) == 2
    with pytest.raises(torch.OutOfMemoryError):
        once_more(twice := Fails(2))
    assert twice.calls == 2


def test_another_error_is_not_tried_again():
    with pytest.raises(KeyError):
        once_more(once := Fails(1, KeyError))
    assert once.calls == 1


# ---------------------------------------------------------------- how small, and how it grows back


def test_micro_batches_behind_the_failed_one_are_cut_as_small():
    assert smaller((8, 8, 3), 0, 4, 1) == [(4, 4), (4, 4), (3,)]
    assert smaller((8, 8, 3), 2, 4, 1) == [(4, 4), (4, 4), (2, 1)]
    assert smaller((5, 5), 0, 2, 2) == [(3, 2), (3, 2)]  # two samples at least
    assert smaller((1, 1), 0, 1, 1) == [(1,), (1,)]


def sizes_on_a_device(holds, *, steps, asked=128, samples=1280):
    """Return the largest micro-batch of each step, and how many failures there were."""
    ceiling, largest, failures = Ceiling(), [], 0
    for _ in range(steps):
        most = ceiling.under(asked)
        size = micro_batch_sizes(samples, None, most)[0]
        before = failures
        while size > holds:
            ceiling.failed(size)
            size, failures = ceiling.under(size), failures + 1
        if failures == before:
            ceiling.passed(size, is_bound=most < asked)
        largest.append(size)
    return largest, failures


@pytest.mark.parametrize("holds", [1, 7, 39, 48, 64, 77, 97, 100, 127])
def test_what_a_device_holds_is_used(holds):
    largest, failures = sizes_on_a_device(holds, steps=2000)
    most = max(micro_batch_sizes(1280, None, size)[0] for size in range(1, holds + 1))
    assert largest[-1] == most
    assert failures <= 16


def test_a_ceiling_grows_by_a_quarter_and_by_less_behind_a_failure():
    largest, _ = sizes_on_a_device(100, steps=60)
    assert list(dict.fromkeys(largest)) == [64, 80, 99]
    assert largest.index(80) == 9
    assert largest.index(99) == 17


def test_nothing_is_bound_before_a_failure():
    ceiling = Ceiling()
    ceiling.passed(64, is_bound=False)
    assert ceiling.size is None
    assert ceiling.under(1000) == 1000


def test_what_fitted_earlier_may_no_longer():
    ceiling = Ceiling()
    ceiling.passed(100, is_bound=False)
    ceiling.failed(100)
    assert ceiling.size == 50
    ceiling.passed(50, is_bound=True)
    ceiling.failed(62)
    assert ceiling.size == 50


def test_a_run_uses_what_the_device_holds():
    namespace, plain = (names(Holds(holds), samples=1280, steps=36) for holds in (100, 5000))
    run_accumulated(CELL, namespace, None, "--size 128")
    run_plain(CELL, plain)
    assert namespace["losses"] == pytest.approx(plain["losses"], rel=1e-9)
    assert {step.micro_batches for step in events(StepDone)[-8:]} == {1280 // 98}  # of 99 and 98 samples
    assert len(events(MicroBatchRescued)) <= 3

"""Out-of-memory errors at every operation of a step: no gradient is lost or counted twice, and the run goes on.

By default each cell is hit once in every part of a step, at another place in each cell. With ACCUM_MAGIC_EVERY_FAULT=1
every cell is hit at every operation, which takes a quarter of an hour; `-s` prints how many were survived.
"""

import gc
import os
from collections import Counter
from dataclasses import replace
from functools import cache
from zlib import crc32

import pytest
import torch
from fault_cells import CELLS, SHARING, UNEQUAL
from fault_tools import BACKWARD, BETWEEN, FORWARD, ONCE, OPTIMIZER, Faults, fail_at

import accum_magic
from accum_magic.errors import OptimizerStepError

IS_COMPLETE = bool(os.environ.get("ACCUM_MAGIC_EVERY_FAULT"))
BY_NAME = {cell.name: cell for cell in (*CELLS, *UNEQUAL)}
PLACES = (FORWARD, BACKWARD, BETWEEN, OPTIMIZER)
SAID = OptimizerStepError.__name__
TANH = torch.ops.aten.tanh.default
NAMES_OF_THE_STEP = {"batches", "x", "y", "out", "loss", "a", "b", "first", "second", "weight", "random state"}


@pytest.fixture(scope="module", autouse=True)
def _collects_quickly():
    """Let later tests collect again what the runs of these have frozen."""
    yield
    gc.unfreeze()


def each(cells):
    return pytest.mark.parametrize("cell", cells, ids=lambda cell: cell.name)


@cache
def undisturbed(cell):
    """Return the operations of a cell's steps, and what they leave."""
    faults = Faults()
    left = cell.run(faults)
    return tuple(faults.operations), left


def survivable(operations):
    """Yield what must be survived: all but an optimizer's step that has begun to write, and what runs once."""
    has_written = False
    for operation in operations:
        has_written = has_written and operation.place == OPTIMIZER
        if not has_written and operation.place != ONCE:
            yield operation
        has_written = operation.place == OPTIMIZER and (has_written or operation.writes)


def chosen(cell, operations, most=1):
    """Return some operations, evenly spread; which ones differs from cell to cell."""
    operations = list(operations)
    most = len(operations) if IS_COMPLETE else min(most, len(operations))
    shift = crc32(cell.name.encode()) / 2**32
    return [operations[int((i + shift) * len(operations) / most)] for i in range(most)]


def hits(cell):
    """Return operations to fail at, and when."""
    operations, _ = undisturbed(cell)
    operations = list(survivable(operations))
    most = 4 if cell is CELLS[0] else 1
    early = [(o, "before") for place in PLACES for o in chosen(cell, [o for o in operations if o.place == place], most)]
    accumulations = [o for o in operations if o.place == BACKWARD and o.writes]
    return early + [(o, "after") for o in chosen(cell, accumulations, most)]


def rescued():
    return [event for event in accum_magic.last_run().events if type(event).__name__ == "MicroBatchRescued"]


def failed(cell, faults, expected, *, but=()):
    """Run a cell with faults; say what is not as without."""
    try:
        left = cell.run(faults)
    except Exception as error:  # noqa: BLE001 - all of them are told together
        return f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
    if not faults.raised:
        return "was not reached"
    differences = left.differences(expected, cell.rtol, but=but)
    is_split = any(o.place in {FORWARD, BACKWARD} for o in faults.raised)
    return "; ".join(differences[:3]) or ("" if not is_split or rescued() else "no event tells of it")


def judged(cell, trials, expected, *, but=()):
    """Assert that all trials (what it is, faults) leave what is expected; tell how many there were."""
    found = {str(what): failed(cell, faults, expected, but=but) for what, faults in trials}
    bad = {what: why for what, why in found.items() if why}
    print(f"\n{cell.name}: {len(found) - len(bad)} of {len(found)} survived", end="")
    assert found
    assert not bad, "\n".join([f"{len(bad)} of {len(found)}", *(f"{w}: {y}" for w, y in list(bad.items())[:12])])


@each(CELLS)
def test_a_step_survives_an_error_at_any_operation(cell):
    trials = [(f"{when} {o}", fail_at(o.number, when=when)) for o, when in hits(cell)]
    judged(cell, trials, undisturbed(cell)[1])


@each(SHARING)
def test_leaves_that_share_a_gradient_are_parted_at_any_operation(cell):
    operations, expected = undisturbed(cell)
    clones = [o for o in operations if o.place == BETWEEN and o.function is torch.ops.aten.clone.default]
    backward = [o for o in survivable(operations) if o.place == BACKWARD]
    assert clones
    trials = [(f"before {o}", fail_at(o.number)) for o in (*clones, *chosen(cell, backward, 24))]
    trials += [
        (f"{o}, then {more} on", Faults(lambda p, n=o.number, m=more: p.number == n or is_later(p, n + m)))
        for o, more in zip(chosen(cell, backward, 12), (1, 2, 3, 5, 8, 13) * len(backward), strict=False)
    ]
    judged(cell, trials, expected)


@each(CELLS if IS_COMPLETE else CELLS[::3])
def test_the_pieces_may_fail_again(cell):
    operations, expected = undisturbed(cell)
    first = [o for o in survivable(operations) if o.place in {FORWARD, BACKWARD}]
    trials = [
        (f"{o}, then {more} on", Faults(lambda p, n=o.number, m=more: p.number == n or is_later(p, n + m)))
        for o, more in zip(chosen(cell, first, 2), (6, 1, 3, 10, 15, 21, 28, 36) * len(first), strict=False)
    ]
    judged(cell, trials, expected)


def is_later(operation, number):
    return operation.number == number and operation.place != OPTIMIZER


@each(CELLS if IS_COMPLETE else [BY_NAME["mlp, momentum"], BY_NAME["transformer, tied, adam, clipped"]])
def test_an_update_that_has_begun_is_never_tried_again(cell):
    operations, expected = undisturbed(cell)
    begun = [o for o in operations if o.place == OPTIMIZER and o not in set(survivable(operations))]
    found = {str(o): failed(cell, fail_at(o.number), expected) for o in chosen(cell, begun, 3)}
    ended = Counter(why.partition(":")[0] for why in found.values())
    print(f"\n{cell.name}: {ended[SAID]} of {len(found)} end in an {SAID}", end="")
    assert set(ended) <= {SAID, ""}, found  # what fails behind the last parameter's update may be survived
    assert ended[SAID]


@pytest.mark.parametrize(
    "error",
    [
        lambda: RuntimeError("CUDA error: out of memory"),
        lambda: RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"
        ),
        lambda: RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB, max allowed: 9.07 GB)."),
        lambda: MemoryError("Unable to allocate 1.00 GiB for an array"),
    ],
)
def test_other_words_of_the_same_error(error):
    cell = CELLS[0]
    operations, expected = undisturbed(cell)
    inside = [o for o in operations if o.place in {FORWARD, BACKWARD}]
    judged(cell, [(o, fail_at(o.number, error=error)) for o in chosen(cell, inside, 2)], expected)


# ---------------------------------------------------------------- when it cannot be, or must not be, survived


# They clear no gradients themselves, so that a lost one shows: those of the steps before are still there.
ACCUMULATES = [
    replace(BY_NAME[name], cell=BY_NAME[name].cell.replace("    opt.zero_grad()\n", ""))
    for name in (
        "gradients from before", "mlp, N = 1", "ignored targets beside a mean", "total read from the graph",
        "counted beforehand", "two backwards apart", "replay, infonce", "float32 sums", "noise", "batch norm",
        "a graph computed once", "checkpointed, reentrant", "dropout",
    )
]  # fmt: skip


@cache
def by_steps(cell):
    """Return what is left after no step, after one, and after all."""
    batches = batches_of(cell)
    return [cell.run(Faults(), batches=batches[:count]) for count in range(len(batches) + 1)]


def batches_of(cell):
    torch.manual_seed(0)
    return cell.make()["batches"]


@each(ACCUMULATES)
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt] if IS_COMPLETE else [KeyboardInterrupt])
def test_another_error_leaves_all_as_before_the_step(cell, error):
    after, bad = by_steps(cell), []
    inside = [o for o in undisturbed(cell)[0] if o.place != OPTIMIZER]
    for operation in chosen(cell, inside, 2):
        with pytest.raises(error):
            cell.run(fail_at(operation.number, error=error))
        bad += undone(cell, after, operation)
    assert not bad, "\n".join(bad[:8])


def undone(cell, after, what):
    """Say what is not as before the step that has failed."""
    steps = accum_magic.last_run().steps
    differences = cell.left().differences(after[steps], 0.0, but=NAMES_OF_THE_STEP)
    return [f"{what}, behind {steps} steps: {d}" for d in differences] + forgotten()


def forgotten():
    """Say what an error has left switched on."""
    hooks = torch.nn.modules.module._global_forward_pre_hooks
    return ["a hook on all modules is left"] * bool(hooks) + ["no gradients"] * (not torch.is_grad_enabled())


@each(ACCUMULATES)
def test_it_gives_up_where_even_single_samples_fail(cell):
    operations, after = undisturbed(cell)[0], by_steps(cell)
    numbers = first_of(operations, FORWARD), last_of(operations, FORWARD)
    for number in numbers if IS_COMPLETE else numbers[1:]:
        faults = Faults(lambda o, n=number: o.number >= n and o.place in {FORWARD, BACKWARD})
        with pytest.raises((accum_magic.AccumulateError, torch.OutOfMemoryError)) as caught:
            cell.run(faults)
        told = caught.value
        assert isinstance(told, torch.OutOfMemoryError) or isinstance(told.__cause__, torch.OutOfMemoryError)
        assert 1 < len(faults.raised) < 20
        assert not undone(cell, after, number)
    assert not cell.run(Faults()).differences(after[-1], cell.rtol, but=NAMES_OF_THE_STEP)


def test_a_graph_computed_once_is_gone_when_its_backward_fails():
    # to run it again it would have to be kept, behind the user's name for it, until the next step
    cell = next(cell for cell in ACCUMULATES if cell.name == "a graph computed once")
    operations = [o for o in undisturbed(cell)[0] if o.place == ONCE]
    assert len(operations) == len(batches_of(cell))
    for operation in operations:
        with pytest.raises(torch.OutOfMemoryError):
            cell.run(fail_at(operation.number))
        assert not undone(cell, by_steps(cell), operation)


def first_of(operations, place):
    return next(o.number for o in operations if o.place == place)


def last_of(operations, place):
    return next(o.number for o in reversed(operations) if o.place == place)


# ---------------------------------------------------------------- a device that holds so many samples


def larger(batches, samples, steps):
    return [(x.repeat(samples, 1)[:samples], y.repeat(samples)[:samples]) for x, y in batches] * (steps // len(batches))


@pytest.mark.parametrize(("n", "holds"), [(1, 5), (2, 1), (2, 3), (3, 4)])
def test_a_device_that_holds_so_many_samples(n, holds):
    cell = replace(BY_NAME["mlp, momentum"], n=n)
    steps = 12
    batches = larger(batches_of(cell), 16, steps)
    expected = cell.run(Faults(), batches=batches)
    faults = Faults(lambda o: o.function == TANH and o.rows > holds)
    left = cell.run(faults, batches=batches)
    assert not left.differences(expected, cell.rtol)
    assert all(event.samples > holds for event in rescued())
    assert 0 < len(faults.raised) < steps  # it learns from an error, and tries larger ones only now and then


def test_micro_batches_grow_back():
    cell = BY_NAME["mlp, momentum"]
    batches = larger(batches_of(cell), 12, 160)
    faults = fail_at(1)
    left = cell.run(faults, batches=batches)
    counts = [e.micro_batches for e in accum_magic.last_run().events if type(e).__name__ == "StepDone"]
    assert max(counts[:3]) > cell.n
    assert counts[-1] == cell.n
    assert not left.differences(cell.run(Faults(), batches=batches), 1e-7)


# ---------------------------------------------------------------- where smaller pieces compute something else


@each(UNEQUAL[:2])
def test_running_statistics_of_a_rescued_step_move_once(cell):
    expected = undisturbed(cell)[1]
    statistics = [n for n in expected.values if "running" in n or "tracked" in n]
    assert len(statistics) == 3
    others = tuple(n for n in expected.values if n not in statistics)
    judged(cell, [(o, fail_at(o.number, when=when)) for o, when in hits(cell)], expected, but=others)


def test_dropout_survives():
    cell = UNEQUAL[2]
    expected = undisturbed(cell)[1]
    names = tuple(n for n in expected.values if not n.startswith("len("))
    judged(cell, [(o, fail_at(o.number, when=when)) for o, when in hits(cell)], expected, but=names)


def test_faults_hit_all_parts_of_a_step():
    assert {o.place for o in undisturbed(CELLS[0])[0]} == set(PLACES)

"""auto in a process that may take little memory: the budget holds, and the plain cell's result comes out."""

import sys

import pytest
from tight_run import JOBS, in_processes

PLAIN = ("adam", "doubling", "replay", "three do not fit")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")


@pytest.fixture(scope="module")
def found():
    names = [name for name in JOBS if JOBS[name][3] == "auto"]
    jobs = [(name, plain) for name in names for plain in (False, True) if name in PLAIN or not plain]
    return dict(zip(jobs, in_processes(jobs), strict=True))


@pytest.mark.parametrize("name", ["adam", "doubling", "replay"])
def test_the_budget_holds(found, name):
    """Of Adam in its first steps too: its state is to come."""
    run = found[name, False]
    print(f"\n{name}: {run['now_mib']:.0f} before, peak {run['peak_mib']:.0f} of {run['budget_mib']} MiB", end="")
    assert not run["error"]
    assert run["peak_mib"] <= 1.05 * run["budget_mib"]


def test_there_is_room_for_the_first_update(found):
    """Adam makes two tensors for each parameter then, of 25 MiB together; what the backward has freed is not kept."""
    run = found["adam", False]
    assert run["before_update_mib"][0] + 4 * 25 < run["budget_mib"]


@pytest.mark.parametrize("name", ["adam", "doubling", "replay"])
def test_the_plain_cell_would_burst_it(found, name):
    assert found[name, True]["peak_mib"] > 1.1 * found[name, False]["budget_mib"]


@pytest.mark.parametrize("name", PLAIN[1:])
def test_it_trains_what_the_plain_cell_trains(found, name):
    ours, plain = found[name, False], found[name, True]
    assert len(ours["losses"]) == len(plain["losses"]) == len(ours["micro_batches"])
    assert ours["losses"] == pytest.approx(plain["losses"], rel=1e-9)
    assert ours["parameters"] == pytest.approx(plain["parameters"], rel=1e-9)


def test_it_shrinks_when_memory_is_taken_and_grows_when_it_is_free_again(found):
    """From the 9th step on the cell itself holds 30 MiB more, from the 17th on no longer."""
    run = found["taken", False]
    counts = run["micro_batches"]
    print("\nmicro-batches by step:", *counts, end="")
    before, during, after = counts[2:8], counts[9:16], counts[-4:]
    assert not run["error"]
    assert max(before) < min(during)
    assert max(after) < min(during)
    assert max(during) <= 4 * max(before)
    # what the cell itself allocates comes on top of what the process has kept
    assert run["peak_mib"] <= 1.05 * run["budget_mib"] + 30


def test_longer_samples_are_cut_smaller_before_they_have_run(found):
    """Each step's are twice as long; of the longest a micro-batch has one or two."""
    run = found["doubling", False]
    assert run["micro_batches"][-1] >= 12
    assert run["rescues"] == []


def test_a_single_sample_that_does_not_fit_is_an_error(found):
    run = found["one does not fit", False]
    first, note = run["error"].splitlines()
    assert first.startswith("BudgetExceededError: the memory budget is exceeded: ")
    assert note.startswith("accum_magic: line 4: out of memory with a single sample at once.")
    assert run["losses"] == []

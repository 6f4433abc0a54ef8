"""Real shortness of memory on a CPU: a limit on the process's addresses, and the budget of `--memory`."""

import sys

import pytest
from limited_run import activations_mib, in_processes

HEADROOM_MIB = 90  # of addresses: the plain step needs 230, half of the batch 130, a quarter 76
BUDGET_MIB = 70  # over what the process holds before
JOBS = {
    "unlimited": ("hand-written", {}),
    "plain": ("plain", {"headroom_mib": HEADROOM_MIB}),
    "plain, unlimited": ("plain", {}),
    "1": ("1", {"headroom_mib": HEADROOM_MIB}),
    "2": ("2", {"headroom_mib": HEADROOM_MIB}),
    "auto": ("auto", {"headroom_mib": HEADROOM_MIB}),
    "auto, budget": ("auto", {"budget_over_now_mib": BUDGET_MIB}),
    "2, budget": ("2", {"budget_over_now_mib": BUDGET_MIB}),
}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and VmHWM are Linux's")


@pytest.fixture(scope="module")
def found():
    return dict(zip(JOBS, in_processes(list(JOBS.values())), strict=True))


def test_the_plain_step_dies(found):
    assert "can't allocate memory" in found["plain"]["error"]
    assert found["plain"]["losses"] == []


@pytest.mark.parametrize("how", ["1", "2", "auto", "auto, budget", "2, budget"])
def test_it_trains_as_the_loop_written_by_hand(found, how):
    assert not found[how]["error"]
    for name in ("losses", "parameters"):
        for mine, theirs in zip(found[how][name], found["unlimited"][name], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("how", ["1", "2"])
def test_the_rescue_is_told(found, how):
    assert "MicroBatchRescued" in [kind for kind, _ in found[how]["events"]]


@pytest.mark.parametrize("how", ["auto, budget", "2, budget"])
def test_the_budget_holds(found, how):
    run, plain = found[how], found["plain, unlimited"]
    print(f"\n{how}: peak {run['peak_mib']:.0f} of {run['budget_mib']} MiB, plain {plain['peak_mib']:.0f} MiB", end="")
    assert plain["peak_mib"] - plain["before_mib"] > activations_mib() > 1.5 * BUDGET_MIB
    assert run["before_mib"] < run["budget_mib"]
    assert run["peak_mib"] <= 1.05 * run["budget_mib"]

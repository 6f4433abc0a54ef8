"""Nothing grows over 20,000 steps: memory, objects, threads, files, events, what the modules of ours remember."""

import sys

import pytest
from soak import STEPS, in_process

WARM, FULL = 5_000, 12_500  # steps: from FULL on the last 10,000 losses and 1,000 events are rings that turn
RINGS = {"losses": 10_000, "events": 1_000}
# Measured: 0.07 to 0.25 MiB from FULL to the end, the allocator's own coming and going. A leaked tensor of some 550
# bytes a step would be 4 MiB, the smallest object with attributes (56 bytes) 0.4 MiB; shorter entries are told by the
# lengths of the collections. From WARM to FULL the ring of losses fills: 5,000 tensors more, measured 2.6 to 3.9 MiB.
GROWTH_MIB, RING_MIB = 0.4, 5.0
MOST_OBJECTS = 50  # more from FULL on; measured: 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize(("n", "options"), [("2", ""), ("1", ""), ("auto", "--memory 1GiB")])
def test_a_long_run_does_not_grow(n, options):
    found = in_process(n, options)
    assert found["steps"] == STEPS
    seen = {int(step): sizes for step, sizes in found["seen"].items()}
    mib = {step: sizes["resident_bytes"] / 2**20 for step, sizes in seen.items()}
    objects = {step: sizes["objects"] for step, sizes in seen.items()}
    print(f"\nN = {n}: {found['elapsed_s']:.0f} s, resident MiB {mib}, objects {objects}", end="")
    early, late = seen[WARM], seen[STEPS]
    assert {k: (early.get(k), v) for k, v in late.items() if v != early.get(k) and not is_measured(k)} == {}
    assert {k: late[k] for k in RINGS} == RINGS
    assert mib[STEPS] - mib[FULL] <= GROWTH_MIB
    assert mib[STEPS] - mib[WARM] <= GROWTH_MIB + RING_MIB
    assert objects[STEPS] - objects[FULL] <= MOST_OBJECTS


def is_measured(name):
    """Whether a size is held to a measure of its own."""
    return name in {"resident_bytes", "objects", *RINGS}

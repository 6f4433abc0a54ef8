"""The search for the fastest size, on made-up devices whose times are known: what it proposes, and where it ends."""

import random
from dataclasses import dataclass
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accum_magic.engine.fastest import Search

NOISE = 0.05
MOST_STEPS = 48  # until it has settled
GOOD, AT_WORST = 0.97, 0.94  # of the best size's throughput: in the median over the seeds, and in each of them


def unimodal(size):
    return 3e-3 + 1e-3 * size + 2e-5 * size**2  # best at 12 samples


def flat(size):
    return 1e-3 * size


def launch_bound(size):
    return 2e-2 + 1e-6 * size


def cache_cliff(size):
    return 2e-3 + 1e-3 * size * (1.0 if size <= 48 else 1.6)


def bumpy(size):  # past the bump it is 4 % faster
    return 4e-3 + 1e-3 * size * (1.3 if 30 < size < 40 else 1.0)


CURVES = (unimodal, flat, launch_bound, cache_cliff, bumpy)


@dataclass
class Device:
    """Runs what a search proposes; each micro-batch takes a time of the curve, 5 % more or less."""

    curve: object
    search: Search
    seed: int = 0

    def __post_init__(self):
        self.random = random.Random(self.seed)
        self.steps = []

    def step(self, samples, largest):
        sizes = self.search.propose(samples, largest)
        assert sum(sizes) == samples
        assert max(sizes) <= max(largest, 2 * self.search.smallest - 1)
        assert min(sizes) >= min(self.search.smallest, samples)
        seconds = [self.curve(size) * self.random.gauss(1, NOISE) for size in sizes]
        if self.search.by_steps:
            seconds = [sum(seconds) * size / samples for size in sizes]
        if not self.search.is_settled:
            self.search.record(sizes, tuple(seconds))
        self.steps.append(sizes)
        return sizes

    def settle(self, samples, largest):
        for _ in range(MOST_STEPS):
            self.step(samples, largest)
            if self.search.is_settled:
                return self.quality(self.steps[-1], largest)
        pytest.fail(f"not settled after {MOST_STEPS} steps: {self.steps[-6:]}")

    def quality(self, sizes, largest):
        """Throughput over that of the best size that fits."""
        samples, least = sum(sizes), min(self.search.smallest, sum(sizes))
        counts = range(-(-samples // largest), max(1, samples // least) + 1)
        return min(self.time(samples, n) for n in counts) / sum(map(self.curve, sizes))

    def time(self, samples, n):
        """Seconds of a batch in n micro-batches."""
        size, larger = divmod(samples, n)
        return larger * self.curve(size + 1) + (n - larger) * self.curve(size)


def settled(curve, samples, largest, **options):
    """Return the throughput that searches end with, over the best's, by seed."""
    return [Device(curve, Search(**options), seed).settle(samples, largest) for seed in range(5)]


@pytest.mark.parametrize("options", [{}, {"by_steps": True}, {"smallest": 2}, {"smallest": 2, "by_steps": True}])
@pytest.mark.parametrize(("samples", "largest"), [(512, 512), (97, 97), (400, 133), (7, 7), (1, 1)])
@pytest.mark.parametrize("curve", CURVES)
def test_it_settles_near_the_best(curve, samples, largest, options):
    found = settled(curve, samples, largest, **options)
    assert median(found) >= GOOD or curve is bumpy
    assert min(found) >= AT_WORST


@pytest.mark.parametrize("by_steps", [False, True])
def test_it_goes_on_where_less_fits_in_mid_search_and_climbs_on_where_more_does(by_steps):
    device = Device(launch_bound, Search(by_steps=by_steps))
    for largest in (512, 512, 6, 6, 6, 512, 512, 9):
        device.step(512, largest)
    assert device.settle(512, 9) >= GOOD
    for _ in range(MOST_STEPS):
        device.step(512, 512)
    assert device.search.is_settled
    assert device.quality(device.steps[-1], 512) >= GOOD


def test_a_duel_whose_challenger_no_longer_fits_is_called_off():
    device = Device(unimodal, Search())
    while device.search._duel is None:
        device.step(512, 512)
    fits = min(device.search._duel.challenger, device.search._duel.champion) - 1
    for _ in range(12):
        device.step(512, fits)
    assert device.search.is_settled
    assert device.search._duel is None


@pytest.mark.parametrize("curve", [unimodal, launch_bound, cache_cliff])
@pytest.mark.parametrize("by_steps", [False, True])
def test_a_ragged_last_batch_ends_no_search(curve, by_steps):
    """In each epoch there are three batches, and a last one of 5 samples."""
    device = Device(curve, Search(by_steps=by_steps))
    for number in range(2 * MOST_STEPS):
        device.step(5 if number % 4 == 3 else 512, 512)
        if device.search.is_settled:
            break
    assert device.search.is_settled
    assert device.quality(device.step(512, 512), 512) >= GOOD


def test_batches_that_stay_smaller_are_searched_with():
    device = Device(launch_bound, Search())
    device.step(512, 512)
    assert device.settle(30, 30) >= GOOD


def test_batches_of_all_sizes():
    """As a loader has it that fills its batches by tokens: no two have equally many samples."""
    device, draw = Device(unimodal, Search(by_steps=True)), random.Random(1)
    for _ in range(200):
        device.step(draw.randint(180, 220), 220)
    assert device.search.is_settled
    assert device.quality(device.step(200, 200), 200) >= AT_WORST


def test_larger_is_tried_where_more_fits_than_when_it_settled():
    device = Device(launch_bound, Search())
    device.settle(512, 16)
    assert max(device.steps[-1]) == 16
    device.step(512, 512)
    assert not device.search.is_settled
    assert device.settle(512, 512) >= GOOD


def test_what_is_best_within_what_fits_is_not_searched_again_where_more_does():
    device = Device(unimodal, Search())
    device.settle(512, 100)
    best = device.search.best
    device.step(512, 512)
    assert device.search.is_settled
    assert device.search.best == best


def test_no_search_with_one_sample_and_none_with_the_fewest():
    assert Search().propose(1, 1) == (1,)
    assert Search(smallest=2).propose(3, 1) == (3,)
    assert Search(smallest=2).propose(5, 2) == (2, 3)


def test_a_micro_batch_has_the_fewest_samples_though_one_is_left():
    search = Search(smallest=2)
    assert search.propose(7, 7) == (2, 2, 3)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 400), st.floats(1e-7, 10)), min_size=1, max_size=40),
    st.sampled_from([1, 2, 3]),
    st.booleans(),
)
def test_whatever_comes_it_proposes_what_can_run(steps, smallest, by_steps):
    search = Search(smallest, by_steps=by_steps)
    for samples, largest, seconds in steps:
        sizes = search.propose(samples, largest)
        assert sum(sizes) == samples
        assert min(sizes) >= min(smallest, samples)
        assert max(sizes) <= max(largest, 2 * smallest - 1)
        search.record(sizes, tuple(seconds * size for size in sizes))

"""How much memory micro-batches need: a line through measured peaks, samples of other lengths, the lower bound."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accum_magic.engine.room import PEAK_OVER_SAVED, Room

MARGIN = 1.05
SIZES, UNITS = st.integers(1, 500), st.sampled_from([8.0, 16.0, 24.0, 64.0])
PEAKS = st.lists(st.tuples(SIZES, st.integers(0, 10**9)), max_size=8)


def room(each=1000.0, unit=16.0, constant=0.0):
    return Room(constant, each, unit)


def test_before_anything_has_run_it_is_what_autograd_saves_and_as_much_again():
    assert room(constant=50.0).needed(10, 16.0) == pytest.approx(MARGIN * PEAK_OVER_SAVED * (50 + 10 * 1000))


def test_a_line_goes_through_what_was_measured():
    found = room()
    for size in (1, 2, 4, 8):
        found.observe(size, 16.0, 100_000 + 3000 * size)
    assert found.needed(64, 16.0) == pytest.approx(MARGIN * (100_000 + 3000 * 64))


def test_through_one_peak_alone_the_line_is_as_steep_as_what_autograd_saves():
    """Were the rest of it taken for a constant, hardly a smaller micro-batch would fit where less is free."""
    found = room(constant=2000.0)
    found.observe(8, 16.0, 50_000)
    assert found.needed(8, 16.0) == pytest.approx(MARGIN * 50_000)
    assert found.needed(3, 16.0) == pytest.approx(MARGIN * 25_000)
    assert found.needed(18, 16.0) == pytest.approx(MARGIN * 100_000)


def test_the_largest_peak_of_a_size_counts():
    found = room()
    for peak in (50_000, 90_000, 60_000):
        found.observe(8, 16.0, peak)
    assert found.needed(8, 16.0) == pytest.approx(MARGIN * 90_000)


@pytest.mark.parametrize(("size", "peak"), [(1, 0), (4, 0), (64, 100)])
def test_never_less_per_sample_than_autograd_saves(size, peak):
    """A peak may be hidden: resident memory that was free already, or a high-water mark that was higher before."""
    found = room()
    found.observe(size, 16.0, peak)
    assert found.needed(100, 16.0) - found.needed(50, 16.0) >= MARGIN * 50 * 1000


@pytest.mark.parametrize("ratio", [2, 3])
def test_longer_samples_need_more_by_the_square_until_one_has_run(ratio):
    found = room()
    found.observe(4, 16.0, 20_000)
    found.observe(8, 16.0, 40_000)
    assert found.needed(8, 16.0 * ratio) == pytest.approx(MARGIN * 8 * 5000 * ratio**2)
    found.observe(8, 16.0 * ratio, ratio * 40_000)
    assert found.needed(8, 16.0 * ratio) == pytest.approx(MARGIN * 40_000 * ratio)


def test_shorter_samples_need_less():
    found = room()
    found.observe(4, 16.0, 20_000)
    found.observe(8, 16.0, 40_000)
    assert found.needed(8, 8.0) == pytest.approx(MARGIN * 8 * 2500)


@settings(max_examples=200, deadline=None)
@given(PEAKS, UNITS, st.floats(0, 1e10))
def test_the_largest_that_fits_fits_and_one_more_does_not(peaks, unit, free):
    found = room(each=700.0, constant=100.0)
    for size, peak in peaks:
        found.observe(size, 24.0, peak)
    largest = found.largest(free, unit)
    assert largest >= 0
    assert largest == 0 or found.needed(largest, unit) <= free * (1 + 1e-9)
    assert found.needed(largest + 1, unit) > free * (1 - 1e-9)


@settings(max_examples=200, deadline=None)
@given(PEAKS, UNITS, SIZES, SIZES)
def test_larger_ones_need_no_less_and_all_need_what_has_been_seen(peaks, unit, one, other):
    found = room(each=700.0, constant=100.0)
    for size, peak in peaks:
        found.observe(size, unit, peak)
    assert found.needed(min(one, other), unit) <= found.needed(max(one, other), unit)
    assert found.needed(one, unit) >= MARGIN * one * found._saved_each(unit) * (1 - 1e-9)
    if peaks:
        largest = max(size for size, _ in peaks)
        assert found.needed(largest, unit) >= max(peak for size, peak in peaks if size == largest)

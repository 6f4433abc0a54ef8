"""How many bytes a micro-batch needs, by its samples: a line through what has been measured."""

from __future__ import annotations

from dataclasses import dataclass, field

PEAK_OVER_SAVED = 2.0  # before anything is measured: a backward holds gradients beside what the forward has saved
_MARGIN = 1.05


@dataclass(slots=True)
class Room:
    """What micro-batches of one step need above what is there before them, in bytes.

    `constant` and `each` (per sample) are what autograd saves, by the probe's two runs on samples of `unit`
    numbers each. `needed` is a line `a + b * samples` through the peaks of micro-batches that have run; through one
    alone it is as steep as what is saved, and before any it is twice that. Samples of another size (longer sequences)
    are taken to need more by the square of it, as attention does, until one has run.
    """

    constant: float
    each: float
    unit: float
    peaks: dict[float, dict[int, int]] = field(default_factory=dict)  # by unit and size, the largest peak

    def observe(self, size: int, unit: float, peak_bytes: int) -> None:
        """Take the peak of one micro-batch."""
        peaks = self.peaks.setdefault(unit, {})
        peaks[size] = max(peaks.get(size, 0), peak_bytes)

    def needed(self, size: int, unit: float) -> float:
        """Return the bytes that a micro-batch of a size will need at its peak."""
        constant, each = self._line(unit)
        return _MARGIN * (constant + each * size)

    def largest(self, free_bytes: float, unit: float) -> int:
        """Return the largest micro-batch that needs no more than some bytes; 0 where none does."""
        constant, each = self._line(unit)
        return max(0, int((free_bytes / _MARGIN - constant) / max(each, 1.0)))

    def _line(self, unit: float) -> tuple[float, float]:
        peaks = self.peaks.get(unit)
        if peaks:
            return _fitted(peaks, self.constant, self._saved_each(unit))
        known = min(self.peaks, key=lambda other: abs(other - unit), default=None)
        if known is None:
            return PEAK_OVER_SAVED * self.constant, PEAK_OVER_SAVED * self._saved_each(unit)
        constant, each = _fitted(self.peaks[known], self.constant, self._saved_each(known))
        return constant, each * _growth(unit / known)

    def _saved_each(self, unit: float) -> float:
        return self.each * _growth(unit / self.unit)


def _growth(ratio: float) -> float:
    """Return how much more a sample needs that is longer by a ratio: never less than it may."""
    return ratio * ratio if ratio > 1 else ratio


def _fitted(peaks: dict[int, int], saved: float, least: float) -> tuple[float, float]:
    """Return the line (a, b) through peaks by size, in least squares; `b` is what autograd saves at least."""
    count, largest = len(peaks), max(peaks)
    mean_size, mean_peak = sum(peaks) / count, sum(peaks.values()) / count
    spread = sum((size - mean_size) ** 2 for size in peaks)
    if spread:
        slope = sum((s - mean_size) * (p - mean_peak) for s, p in peaks.items()) / spread
    else:  # as much more than is saved as was measured, whatever the size
        slope = peaks[largest] * least / max(saved + least * largest, 1.0)
    slope = max(slope, least)
    # never below the largest that has run, which weighs most for those that are larger still
    return max(mean_peak - slope * mean_size, peaks[largest] - slope * largest, 0.0), slope

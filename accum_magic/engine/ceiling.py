"""The largest micro-batch that is tried after an out-of-memory error, growing back bit by bit."""

from __future__ import annotations

from dataclasses import dataclass

_MOST_GROWTH = 1 / 4  # halving alone loses capacity: 128 asked, 100 fits, 64 used (accelerate#3650, composer#3503)
_LEAST_GROWTH = 1 / 32  # each failure halves it: where 80 fits and 100 does not, 90 and 95 are tried
_FIRST_PATIENCE = 8  # steps without a failure before a larger size is tried
_MOST_PATIENCE = 512  # each failure doubles it: near the limit they become rare


@dataclass(slots=True)
class Ceiling:
    """What has failed, and what has not since."""

    size: int | None = None
    """Samples that a micro-batch has at most; None while nothing has failed."""
    _good: int = 0  # the largest that has run
    _patience: int = _FIRST_PATIENCE // 2
    _growth: float = _MOST_GROWTH
    _clean_steps: int = 0

    def failed(self, size: int, share: float = 0.5) -> None:
        """Lower the ceiling, to a share of a size that has run out of memory or to what is known to fit."""
        if size <= self._good:  # less memory is free than before
            self._good = 0
        if self._good:
            self._growth = max(self._growth / 2, _LEAST_GROWTH)
        self.size = max(1, self._good, int(size * share))
        self._patience = min(2 * self._patience, _MOST_PATIENCE)
        self._clean_steps = 0

    def passed(self, largest: int, *, is_bound: bool) -> None:
        """Count a step without a failure that the ceiling has bound, and lift it if there were enough of them."""
        if largest > self._good:
            self._good, self._growth = largest, min(2 * self._growth, _MOST_GROWTH)
        if self.size is None or not is_bound:
            return
        self._clean_steps += 1
        if self._clean_steps >= self._patience:
            self.size = max(self.size + 1, int(self.size * (1 + self._growth)))
            self._clean_steps = 0

    def under(self, size: int) -> int:
        """Return a size, or the ceiling where that is lower."""
        return size if self.size is None else min(size, self.size)

"""The fastest size of a micro-batch, found by measuring steps that count as training.

A step may be cut into micro-batches of several sizes, since each is weighed by its samples; so nothing that
is tried is thrown away. First the sizes climb by doubling, a few micro-batches of each, until they only get
slower (on a CPU small micro-batches stay in the cache, and are often faster than the whole batch). Then the
best meets its neighbours, step against step in turn, so that what else the machine does hits both.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import median

from accum_magic.engine.split import even_sizes

_MOST_AT_FIRST = 64  # micro-batches of the first size that is tried: more are seldom faster
_GROWTH_PER_STEP = 8  # how much larger sizes become in one step, whose memory is measured only when it has run
_MOST_TIMED = 4  # micro-batches of a size that are timed while the sizes climb
_ROUNDS = 3  # steps of each side of a duel
_SLOWER = 1.1  # over the best so far, of two sizes in succession: larger ones are not tried
_FASTER = 0.98  # what a challenger has to reach; less is noise
_NEAR_TOP, _HIGHER = 0.7, 1.15  # of the largest that fits: a best near it may be bettered where more fits
_RATIOS = (2**0.5, 2**-0.5, 2**0.25, 2**-0.25)  # of the sizes that challenge the best


@dataclass(slots=True)
class _Duel:
    """Two sizes that run in turn, a step each."""

    challenger: int
    champion: int
    seconds: dict[int, list[float]] = field(default_factory=lambda: {0: [], 1: []})  # per sample; 0: the challenger's

    @property
    def turn(self) -> int:
        return int(len(self.seconds[0]) > len(self.seconds[1]))

    @property
    def is_over(self) -> bool:
        return len(self.seconds[1]) >= _ROUNDS

    @property
    def is_won(self) -> bool:
        return median(self.seconds[0]) < _FASTER * median(self.seconds[1])


@dataclass(slots=True)
class Search:
    """The search for the fastest size, step by step.

    `samples` of the batch and the `largest` micro-batch that fits are given with each step, for they change.
    """

    smallest: int = 1
    """Samples that a micro-batch must have."""
    by_steps: bool = False
    """Only whole steps can be timed: all micro-batches of one have the same size."""
    best: int = 0
    """The fastest size so far; 0 before the first is known."""
    times: dict[int, list[float]] = field(default_factory=dict)
    """Seconds per sample of each size, without its first micro-batch, which is slow."""
    is_settled: bool = False
    _ran: Counter[int] = field(default_factory=Counter)  # micro-batches of each size, while it climbs
    _rung: int = 0
    _slower: int = 0  # sizes in succession that were slower than the best
    _ratios: list[float] | None = None  # of the challengers still to come; None while it climbs
    _duel: _Duel | None = None
    _top: int = 0  # the largest that has fitted
    _tried: set[int] = field(default_factory=set)  # sizes that have met the best in a duel, or are it

    def propose(self, samples: int, largest: int) -> tuple[int, ...]:
        """Return the sizes of the micro-batches of a step."""
        largest = min(samples, max(largest, 1))
        if self.is_settled and self.best > _NEAR_TOP * self._top and largest > _HIGHER * self._top:
            self.is_settled, self._ratios = False, [2**0.5, 2**0.25]  # more fits than when the best was found
        self._top = max(self._top, largest)
        if self._ratios is None and not self.is_settled:
            self._climb(samples, largest)
        if self._ratios is None and not self.is_settled:
            return self._rungs(samples, largest)
        if not self.is_settled:
            self._next_duel(samples, largest)
        size = self.best
        if self._duel is not None and self._is_like(samples):
            size = self._duel.champion if self._duel.turn else self._duel.challenger
        return even_sizes(samples, min(size, largest), self.smallest)

    def record(self, sizes: tuple[int, ...], seconds: tuple[float, ...]) -> None:
        """Take the times of a step's micro-batches; with `by_steps`, of each the same part of the step's."""
        if self._ratios is None:
            for size, each in zip(sizes, seconds, strict=True):
                self._ran[size] += 1
                if self._ran[size] > 1 or self.by_steps:
                    self.times.setdefault(size, []).append(each / size)
        elif self._duel is not None and self._is_like(sum(sizes)):
            duel = self._duel
            expected = duel.champion if duel.turn else duel.challenger
            if sizes == self._even(sum(sizes), expected):
                duel.seconds[duel.turn].append(sum(seconds) / sum(sizes))

    def _is_like(self, samples: int) -> bool:
        """Whether a batch is large enough to tell the two sizes of a duel apart."""
        duel = self._duel
        return duel is not None and self._even(samples, duel.champion) != self._even(samples, duel.challenger)

    def _even(self, samples: int, size: int) -> tuple[int, ...]:
        return even_sizes(samples, size, self.smallest)

    def _climb(self, samples: int, largest: int) -> None:
        """Judge the sizes that are measured, and go to the next one."""
        self._rung = self._rung or min(max(self.smallest, -(-samples // _MOST_AT_FIRST)), largest)
        if self._rung > largest:  # less fits than before
            self._rung = largest if not self.best else self._rung
            self._ratios = list(_RATIOS) if self.best else None
            return
        while self._ran[self._rung] >= self._needed(self._rung, samples):
            mine, best = min(self.times[self._rung]), min(self.times.get(self.best, [float("inf")]))
            self._slower = self._slower + 1 if mine > _SLOWER * best else 0
            if mine < best:
                self.best = self._rung
            if self._rung >= largest or self._slower == 2:  # noqa: PLR2004 - two in succession: one may be noise
                self._ratios = list(_RATIOS)
                return
            self._rung = min(2 * self._rung, largest)

    def _needed(self, size: int, samples: int) -> int:
        """Return how many micro-batches of a size are run: one warms up."""
        return 1 + (1 if self.by_steps else max(1, min(samples // (4 * size), _MOST_TIMED)))

    def _rungs(self, samples: int, largest: int) -> tuple[int, ...]:
        """Return a few micro-batches of each of the next sizes, until the batch is used up."""
        if self.by_steps:
            return even_sizes(samples, self._rung, self.smallest)
        sizes: list[int] = []
        left, rung, most = samples, self._rung, min(largest, _GROWTH_PER_STEP * self._rung)
        while left:
            missing = self._needed(rung, samples) - self._ran[rung]
            count = min(missing, left // rung)
            sizes += [rung] * count
            left -= rung * count
            if count < missing or rung == most:
                break
            rung = min(2 * rung, most)
        if left < self.smallest and sizes:
            left += sizes.pop()
        return (*sizes, *even_sizes(left, min(self.best or rung, largest), self.smallest)) if left else tuple(sizes)

    def _next_duel(self, samples: int, largest: int) -> None:
        """Decide a duel that is over, and find the next challenger."""
        if self._duel is not None and self._duel.is_over:
            if self._duel.is_won:
                ratio = self._duel.challenger / self._duel.champion
                self.best = self._duel.challenger
                self._ratios = [ratio, *(self._ratios or [])]  # the same way once more
            self._duel = None
        self._tried.add(self.best)
        while self._duel is None and self._ratios:
            pieces = max(1, round(-(-samples // self.best) / self._ratios.pop(0)))
            size = -(-samples // pieces)
            if self.smallest <= size <= largest and size not in self._tried:
                self._tried.add(size)
                self._duel = _Duel(size, self.best)
        self.is_settled = self._duel is None

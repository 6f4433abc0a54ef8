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

from accum_magic.engine.split import cut

_MOST_AT_FIRST = 64  # micro-batches of the first size that is tried: more are seldom faster
_GROWTH_PER_STEP = 8  # how much larger sizes become in one step, whose memory is measured only when it has run
_MOST_TIMED = 4  # micro-batches of a size that are timed while the sizes climb
_ROUNDS = 3  # steps of each side of a duel
_SLOWER = 1.1  # over the best so far, of two sizes in succession: larger ones are not tried
_MOST_TRIED = 8  # sizes that meet in duels: in noise a winner could be found again and again
_FASTER = 0.98  # what a challenger has to reach; less is noise
_NEAR_TOP, _HIGHER = 0.7, 1.15  # of the largest that fits: a best near it may be bettered where more fits
_SHORT, _MOST_SHORT = 0.75, 3  # of the batches searched with: a ragged last one tells nothing, several in a row do
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
    times: dict[int, tuple[list[float], list[float]]] = field(default_factory=dict)
    """Seconds per sample of each size on both climbs, without the first micro-batch, which is slow."""
    is_settled: bool = False
    _ran: Counter[int] = field(default_factory=Counter)  # micro-batches of each size, while it climbs
    _rung: int = 0
    _is_second: bool = False  # it climbs a second time
    _slower: int = 0  # sizes in succession that were slower than the best
    _ratios: list[float] | None = None  # of the challengers still to come; None while it climbs
    _duel: _Duel | None = None
    _top: int = 0  # the largest that fitted when it has settled
    _full: int = 0  # samples of the batches that it searches with
    _short: int = 0  # smaller batches in succession
    _tried: set[int] = field(default_factory=set)  # sizes that have met the best in a duel, or are it

    def propose(self, samples: int, largest: int) -> tuple[int, ...]:
        """Return the sizes of the micro-batches of a step."""
        largest = min(samples, max(largest, self.smallest))
        if self._is_short(samples):
            return cut(samples, min(self.so_far() or self._rung, largest), self.smallest)
        if self.is_settled and self.best > _NEAR_TOP * self._top and largest > _HIGHER * self._top:
            # more fits than when it was found: it climbs on from there
            self.is_settled, self._ratios, self._rung, self._slower = False, None, self.best, 0
        if self._ratios is None:
            self._climb(samples, largest)
        if self._ratios is None:
            return self._rungs(samples, largest)
        if not self.is_settled:
            self._next_duel(samples, largest)
        size = self.best
        if self._duel is not None:
            size = self._duel.champion if self._duel.turn else self._duel.challenger
        return cut(samples, min(size, largest), self.smallest)

    def record(self, sizes: tuple[int, ...], seconds: tuple[float, ...]) -> None:
        """Take the times of a step's micro-batches; with `by_steps`, of each the same part of the step's."""
        samples = sum(sizes)
        if self._short:
            return
        if self._ratios is None and self.by_steps:
            if sizes == cut(samples, self._rung, self.smallest):  # it may have no micro-batch of that very size
                self._ran[self._rung] += 1
                self._note(self._rung, sum(seconds) / samples)
        elif self._ratios is None:
            for size, each in zip(sizes, seconds, strict=True):
                self._ran[size] += 1
                if self._ran[size] > 1:
                    self._note(size, each / size)
        elif self._duel is not None:
            duel = self._duel
            expected = duel.champion if duel.turn else duel.challenger
            if self._tells_apart(samples) and sizes == cut(samples, expected, self.smallest):
                duel.seconds[duel.turn].append(sum(seconds) / samples)

    def _note(self, size: int, seconds_per_sample: float) -> None:
        self.times.setdefault(size, ([], []))[self._is_second].append(seconds_per_sample)

    def _time_of(self, size: int) -> float:
        """Return the seconds per sample of a size, on the climb that was disturbed less."""
        return min((median(found) for found in self.times.get(size, ()) if found), default=float("inf"))

    def so_far(self) -> int:
        """Return the best size, or the fastest that has run where none is judged yet; 0 before any has."""
        return self.best or min(self.times, key=self._time_of, default=0)

    def _is_short(self, samples: int) -> bool:
        """Whether a batch is smaller than those that it searches with; what all batches are from now on is not."""
        self._short = self._short + 1 if samples < _SHORT * self._full else 0
        if 0 < self._short <= _MOST_SHORT:
            return True
        self._full = samples if self._short else max(samples, self._full)
        self._short = 0
        return False

    def _tells_apart(self, samples: int) -> bool:
        """Whether a batch is large enough to tell the two sizes of a duel apart."""
        duel = self._duel
        return duel is not None and cut(samples, duel.champion, self.smallest) != cut(
            samples, duel.challenger, self.smallest
        )

    def _climb(self, samples: int, largest: int) -> None:
        """Judge the sizes that are measured, and go to the next one."""
        self._rung = self._rung or self._first_rung(samples, largest)
        if self._rung > largest:  # less fits than before
            self._rung = largest if not self.best else self._rung
            self._ratios = list(_RATIOS) if self.best else None
            return
        while self._ran[self._rung] >= self._needed(self._rung, samples):
            mine, best = self._time_of(self._rung), self._time_of(self.best)
            self._slower = self._slower + 1 if mine > _SLOWER * best else 0
            if mine < best:
                self.best = self._rung
            if self._rung >= largest or self._slower == 2:  # noqa: PLR2004 - two in succession: one may be noise
                if self.by_steps or self._is_second:
                    self._ratios = list(_RATIOS)
                    return
                # once more from below, at another moment: what else the machine does only ever makes a size slower
                self._is_second, self._rung, self._slower = True, self._first_rung(samples, largest), 0
                self._ran.clear()
                return
            self._rung = min(2 * self._rung, largest)

    def _first_rung(self, samples: int, largest: int) -> int:
        return min(max(self.smallest, -(-samples // _MOST_AT_FIRST)), largest)

    def _needed(self, size: int, samples: int) -> int:
        """Return how many micro-batches of a size are run: one warms up."""
        return 1 + (1 if self.by_steps else max(1, min(samples // (4 * size), _MOST_TIMED)))

    def _rungs(self, samples: int, largest: int) -> tuple[int, ...]:
        """Return a few micro-batches of each of the next sizes, until the batch is used up."""
        if self.by_steps:
            return cut(samples, self._rung, self.smallest)
        sizes: list[int] = []
        left, rung, most = samples, self._rung, min(largest, _GROWTH_PER_STEP * self._rung)
        while left:
            missing = max(0, self._needed(rung, samples) - self._ran[rung])
            count = min(missing, left // rung)
            sizes += [rung] * count
            left -= rung * count
            if count < missing or rung == most:
                break
            rung = min(2 * rung, most)
        while sizes and 0 < left < self.smallest:
            left += sizes.pop()
        rest = cut(left, min(self.best or rung, largest), self.smallest) if left else ()
        return (*sizes, *rest)

    def _next_duel(self, samples: int, largest: int) -> None:
        """Decide a duel that is over, and find the next challenger."""
        if self._duel is not None and self._duel.is_over:
            if self._duel.is_won:
                ratio = self._duel.challenger / self._duel.champion
                self.best = self._duel.challenger
                self._ratios = [ratio, *(self._ratios or [])]  # the same way once more
            self._duel = None
        duel = self._duel
        if duel is not None and (max(duel.challenger, self.best) > largest or not self._tells_apart(samples)):
            self._tried.discard(duel.challenger)  # less fits than before, or the batches are others
            self._duel = None
        self._tried.add(self.best)
        if len(self._tried) > _MOST_TRIED:
            self._ratios = []
        while self._duel is None and self._ratios and self.best <= largest:
            pieces = max(1, round(-(-samples // self.best) / self._ratios.pop(0)))
            size = min(-(-samples // pieces), largest)
            if size >= self.smallest and size not in self._tried:
                self._tried.add(size)
                self._duel = _Duel(size, self.best)
                if not self._tells_apart(samples):
                    self._duel = None
        self.is_settled = self._duel is None
        self._top = largest

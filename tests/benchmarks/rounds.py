"""Taking turns, and what the turns say: medians, ratios of medians, and their noise."""

import random
from dataclasses import dataclass
from statistics import fmean, median, quantiles

RESAMPLES = 1000


@dataclass(frozen=True)
class Comparison:
    """A contender's median beside another's; the noises are half the central 95 % over resampled rounds."""

    value: float
    difference: float
    difference_noise: float
    ratio: float
    ratio_noise: float

    @property
    def is_within_noise(self):
        return abs(self.difference) <= self.difference_noise


class Rounds:
    """The figures of contenders that take turns, by name, one per round."""

    def __init__(self, names, seed=0):
        self.figures = {name: [] for name in names}
        self._random = random.Random(seed)

    def play(self, turns, slices):
        """One round: so many short turns of everybody, in an order that changes; their figures are averaged."""
        taken = {name: [] for name in turns}
        order = list(turns)
        for _ in range(slices):
            self._random.shuffle(order)
            for name in order:
                taken[name].append(turns[name]())
        for name, figures in taken.items():
            self.figures[name].append([fmean(each) for each in zip(*figures, strict=True)])

    def part(self, index):
        """The same with one of several figures of each turn."""
        part = Rounds(())
        part.figures = {name: [figure[index] for figure in figures] for name, figures in self.figures.items()}
        return part

    def compare(self, name, other, add=0.0):
        """A contender's figures, with `add` to each, beside those of another."""
        pairs = [(mine + add, theirs) for mine, theirs in zip(self.figures[name], self.figures[other], strict=True)]
        mine, theirs = _medians(pairs)
        resampled = [_medians(self._random.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES)]
        return Comparison(
            mine,
            mine - theirs,
            _half_width([a - b for a, b in resampled]),
            mine / theirs,
            _half_width([a / b for a, b in resampled]),
        )


def _medians(pairs):
    return tuple(map(median, zip(*pairs, strict=True)))


def _half_width(values):
    cuts = quantiles(values, n=40)
    return (cuts[-1] - cuts[0]) / 2


def noise_of(values):
    """Half the central 95 % of the median of resampled values."""
    pick = random.Random(0)
    return _half_width([median(pick.choices(values, k=len(values))) for _ in range(RESAMPLES)])

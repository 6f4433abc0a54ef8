"""The exhaustive search that `auto` stands beside: accum_magic with every fixed N of a fine grid."""

import ast
from dataclasses import dataclass, field
from statistics import median

import accum_magic
from accum_magic.engine import planner
from benchmarks import cells
from benchmarks.contenders import Contender

STEP = 1.2  # between neighbours of the grid, where whole numbers allow it
TOO_SLOW = 1.5  # times the best: from there on a larger N only gets worse
CLOSE = 1.15  # times the best: looked at again
FINALISTS = 3


def grid(batch):
    """Numbers of micro-batches from 1 to one per sample, whose sizes differ by a fifth at most."""
    n = 1
    while n <= batch:
        yield n
        n = max(n + 1, int(n * STEP))


def accumulated(n, namespace, name=None):
    """The plain cell under `%%accumulate n`; auto's stands a line lower, since a run knows its steps by their code."""
    cell = "\n" * (n == "auto") + cells.PLAIN
    tree = accum_magic.rewrite(cell, n, namespace=namespace).tree
    return Contender(name or f"N = {n}", ast.fix_missing_locations(tree), namespace)


def forget_plans():
    """What auto has learnt of a cell outlives its run; a benchmark of the learning starts from nothing."""
    planner._PLANS.clear()


@dataclass
class Search:
    """Times of a step by N, in seconds; the N's take turns on one model, each probed before its first turn."""

    namespace: dict
    batch: int
    times: dict[int, list[float]] = field(default_factory=dict)
    contenders: dict[int, Contender] = field(default_factory=dict)

    def run(self):
        """Time every N once, those close to the best twice more, the best of these four times more."""
        self._walk()
        close = [n for n in self.times if self.time(n) <= CLOSE * self.time(self.best(1)[0])]
        self._turns(close, 2)
        self._turns(self.best(FINALISTS), 4)

    def _walk(self):
        """Go through the grid from N = 1 on, until two in a row are far slower than the best."""
        slow = 0
        for n in grid(self.batch):
            self.add(n)
            self._turn(n)
            is_slow = n > 1 and self.time(n) > TOO_SLOW * self.time(self.best(1)[0])
            slow = slow + 1 if is_slow else 0
            if slow == 2:
                return

    def _turns(self, candidates, count):
        for _ in range(count):
            for n in candidates:
                self._turn(n)

    def add(self, n):
        """Make a contender of N, and let it probe its step on a batch that takes no time; return its N."""
        if n not in self.contenders:
            self.contenders[n] = accumulated(n, self.namespace)
            kept = self.namespace["loader"]
            ((x, y),) = kept
            self.namespace["loader"] = [(x[:4], y[:4])]
            self.contenders[n].run()
            self.namespace["loader"] = kept
        return n

    def _turn(self, n):
        self.times.setdefault(n, []).append(self.contenders[n].timed()[0])

    def time(self, n):
        return median(self.times[n])

    def best(self, count):
        return sorted(self.times, key=self.time)[:count]

    def curve(self):
        """One entry per N: the time of a step over the best's."""
        fastest = self.time(self.best(1)[0])
        return ", ".join(f"{n}: {self.time(n) / fastest:.2f}" for n in self.times)

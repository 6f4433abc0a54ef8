"""Which backwards of a block share one loop: those of one graph, with nothing in between that changes parameters."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from accum_magic.cell import refuse
from accum_magic.cell.barriers import barrier
from accum_magic.cell.batch import loop_names
from accum_magic.cell.effects import overlaps
from accum_magic.cell.namespace import Lookup
from accum_magic.cell.parse import Backward, Place, own_names
from accum_magic.cell.reach import Flow
from accum_magic.cell.recognise import BackwardCall
from accum_magic.cell.regions import backward_slice
from accum_magic.cell.units import Unit, flatten


@dataclass(frozen=True, slots=True)
class Candidates:
    """Backwards of a block that are not planned yet, in source order; `start` is the first statement left for them."""

    places: tuple[Place, ...]
    start: int
    backwards: tuple[Backward, ...]

    @property
    def calls(self) -> list[BackwardCall]:
        """Their calls."""
        return [b.call for b in self.backwards]

    def top(self, which: int) -> int:
        """Return the index of the block's statement that holds a backward."""
        return self.backwards[which].places[len(self.places) - 1].index

    def up_to(self, count: int) -> Candidates:
        """Return the first of them."""
        return replace(self, backwards=self.backwards[:count])


def made_above(places: Sequence[Place], lookup: Lookup) -> frozenset[str]:
    """Return the names that hold something made of the batch when a block inside the batch's loop begins.

    `delta = torch.zeros_like(x)` above a loop of attacks, or above a closure, has one row per sample.
    """
    loops = [i for i, p in enumerate(places) if isinstance(p.owner, ast.For | ast.AsyncFor) and loop_names(p.owner)]
    if not loops or loops[-1] == len(places) - 1:
        return frozenset()
    flow = Flow(lookup)
    flow.seed(loop_names(places[loops[-1]].owner))  # type: ignore[arg-type]
    for place in places[loops[-1] : -1]:
        for unit in flatten(place.body[: place.index], lambda _: False):
            fed = any(overlaps(p, flow.fed) for p in unit.effects.reads)
            flow.take(unit, fed=fed, reaches=flow.reaches(unit.node))
    return frozenset(flow.fed)


Built = Callable[[Candidates, int], Sequence[Unit]]


def triple_size(candidates: Candidates, built: Built) -> int:
    """Count the backwards that share one loop.

    `built` tells which units of a triple of all candidates build a graph above the backward before the given number.
    """
    count = 1
    while True:
        later = range(len(candidates.backwards), count, -1)
        joined = next((i for i in later if _joins(candidates.up_to(i), count, built)), None)
        if joined is None:
            return count
        count = joined


def _barrier(
    candidates: Candidates, count: int, inside: Sequence[ast.stmt], forward: frozenset[ast.stmt]
) -> ast.stmt | None:
    """Return what may change parameters before one of the new backwards; branches that exclude it do not count."""
    own, backwards = own_names(candidates.places), candidates.backwards
    pairs = [(a, b) for i, b in enumerate(backwards) for a in backwards[:i] if i >= count]
    found = (barrier(inside, pair, forward, own) for pair in pairs)
    return next((statement for statement in found if statement is not None), None)


def _joins(candidates: Candidates, count: int, built: Built) -> bool:
    """Whether the last candidate belongs into one loop with the first `count`."""
    calls, body = candidates.calls, candidates.places[-1].body
    inside, behind = body[candidates.start :], body[candidates.top(count - 1) + 1 :]
    forward = frozenset(u.node for u in backward_slice(inside, calls[-1:]).members)
    between = _barrier(candidates, count, inside, forward)
    if candidates.top(-1) == candidates.top(count - 1):
        return between is None
    units, following = built(candidates, count), backward_slice(behind, calls[-1:])
    if refuse.crossing(following, units, calls[-1]) is None:
        return False
    if between is None or not refuse.shares_modules(inside, calls[:count], calls[-1]):
        return True
    refuse.graph_across(following, units, calls[-1], between)
    return False

"""Which part of a block runs once before, per micro-batch, or once after (SPEC section 4)."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from accum_magic.cell.axes import is_shape_read
from accum_magic.cell.branches import exclude, waits_for
from accum_magic.cell.effects import expression_effects, overlap, root
from accum_magic.cell.once import detaches_earlier, fills_without_graph, is_statistic, makes_criterion
from accum_magic.cell.reach import Flow
from accum_magic.cell.recognise import (
    BackwardCall,
    backward_call,
    is_clearing,
    is_literal,
    returns_jump,
)
from accum_magic.cell.units import Fork, Unit, flatten, inside


class Region(IntEnum):
    """When a unit runs, in order."""

    BEFORE = 0
    MICRO = 1
    AFTER = 2


@dataclass(frozen=True, slots=True)
class Slice:
    """The backward slice of the losses within a block."""

    units: tuple[Unit, ...]  # of the whole block, in source order
    members: frozenset[Unit]
    last: int  # index in `units` of the last backward of the triple
    inputs: frozenset[str]  # paths the slice reads from before the block
    split: frozenset[ast.stmt]  # compound statements that are taken apart
    certain: frozenset[Fork]  # branches that are taken whenever the backward runs

    def is_split(self, node: ast.stmt) -> bool:
        """Tell whether a compound statement is taken apart."""
        return node in self.split

    def is_certain(self, unit: Unit) -> bool:
        """Tell whether a unit runs whenever the backward does."""
        return all(isinstance(f.node, ast.With) or f in self.certain for f in unit.forks)


def backward_slice(body: Sequence[ast.stmt], triple: Sequence[BackwardCall]) -> Slice:
    """Slice a block backwards from the losses of a triple."""
    roots = {call.statement for call in triple}
    every = tuple(flatten(body, lambda _: True))
    _, members, _ = _walk_back(body, every, triple)
    kept = {unit.node for unit in members} | roots
    split = frozenset(f.node for unit in every if unit.node in kept for f in unit.forks)
    units = tuple(flatten(body, lambda node: node in split))
    last, members, inputs = _walk_back(body, units, triple)
    forks = [frozenset(u.forks) for u in units if u.node in roots]
    return Slice(units, members, last, inputs, split, frozenset.intersection(*forks))


def _walk_back(
    body: Sequence[ast.stmt], units: Sequence[Unit], triple: Sequence[BackwardCall]
) -> tuple[int, frozenset[Unit], frozenset[str]]:
    walk = _WalkBack({unit.node: unit for unit in units}, {call.statement: call.loss for call in triple})
    needed = walk.over(body, frozenset())
    last = max(i for i, unit in enumerate(units) if unit.node in walk.losses)
    return last, frozenset(walk.members), needed


@dataclass(slots=True)
class _WalkBack:
    """Walks from the losses back to what they need, branch by branch."""

    units: dict[ast.stmt, Unit]
    losses: dict[ast.Expr, ast.expr]
    members: set[Unit] = field(default_factory=set)

    def over(self, body: Sequence[ast.stmt], needed: frozenset[str]) -> frozenset[str]:
        """Return the paths needed before a list, of those `needed` behind it and what its losses read."""
        for node in reversed(body):
            unit = self.units[node]
            if unit.is_head:
                needed = self._over_branches(unit, needed)
            elif node in self.losses:
                needed |= expression_effects(self.losses[node]).reads
            elif not _is_transparent_to_slice(unit) and overlap(unit.effects.changes, needed):
                self.members.add(unit)
                needed = _without(needed, unit) | unit.effects.reads
        return needed

    def _over_branches(self, head: Unit, behind: frozenset[str]) -> frozenset[str]:
        node = head.node
        assert isinstance(node, ast.If | ast.With)  # noqa: S101 - nothing else is taken apart
        needed = self.over(node.body, behind)
        if isinstance(node, ast.If):
            needed |= self.over(node.orelse, behind)
        if any(
            f.node is node and (u in self.members or u.node in self.losses)
            for u in self.units.values()
            for f in u.forks
        ):
            self.members.add(head)
            needed = _without(needed, head) | head.effects.reads
        return needed


def _without(needed: frozenset[str], unit: Unit) -> frozenset[str]:
    """Drop the paths that a unit binds anew."""
    return frozenset(p for p in needed if root(p) not in unit.effects.kills and p not in unit.effects.writes)


def _is_transparent_to_slice(unit: Unit) -> bool:
    return is_clearing(unit.node) or backward_call(unit.node) is not None or unit.has_own_step


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the units of a block go. A unit can be in two regions: a size is read whole and per micro-batch."""

    regions: dict[Unit, frozenset[Region]]
    exports: frozenset[str]  # names the micro step binds for those behind it
    first: int  # index of the first unit that runs per micro-batch

    def runs_in(self, unit: Unit, region: Region) -> bool:
        """Tell whether a unit runs in a region."""
        return region in self.regions.get(unit, frozenset())


def exports_above(cut: Slice, placement: Placement, node: ast.stmt) -> frozenset[str]:
    """Return the names of the loop's values that are bound above a statement; below it they are the last step's."""
    above = itertools.takewhile(lambda unit: unit.node is not node, cut.units)
    return frozenset(n for u in above if placement.regions.get(u) == MICRO for n in u.effects.writes)


BEFORE, MICRO, AFTER = (frozenset({r}) for r in Region)


def slice_regions(cut: Slice, flow: Flow, at_micro: Callable[[Unit, Flow], object]) -> dict[Unit, frozenset[Region]]:
    """Place the units of the slice: what is fed and reaches a module runs per micro-batch, the rest once before.

    `at_micro` is told each unit that runs per micro-batch, while `flow` stands right before it.
    """
    regions: dict[Unit, frozenset[Region]] = {}
    statistics: set[str] = set()  # names of values of the whole batch
    micro: list[Unit] = []
    for unit in cut.units[: cut.last + 1]:
        if unit.has_own_step:
            _take_own_step(unit, flow)
        if unit not in cut.members or unit.is_head:
            continue
        fed, reaches = flow.is_fed(unit.node), flow.reaches(unit.node)
        is_criterion = makes_criterion(unit, statistics)
        bound = frozenset(n for u in micro if not exclude(u.forks, unit.forks) for n in u.effects.writes)
        reaches &= not (is_criterion or fills_without_graph(unit, bound) or detaches_earlier(unit, bound))
        fed &= not is_criterion
        if is_statistic(assigned_value(unit), statistics):
            statistics |= unit.effects.writes
        regions[unit] = MICRO if fed and reaches else BEFORE
        if regions[unit] == MICRO:
            at_micro(unit, flow)
            micro.append(unit)
        is_counter = isinstance(unit.node, ast.AugAssign)
        is_drawn_batch = flow.draws_feed and not (reaches or is_counter or is_literal_unit(unit))
        flow.take(unit, fed=fed or is_drawn_batch, reaches=reaches)
    return regions


def _take_own_step(unit: Unit, flow: Flow) -> None:
    """A loop with a step of its own runs once, before: what it binds is data for this step, or carries a graph."""
    for statement in inside(unit):
        bound = replace(statement, effects=replace(statement.effects, mutates=frozenset()))
        flow.take(bound, fed=flow.is_fed(statement.node), reaches=flow.reaches(statement.node))


def is_literal_unit(unit: Unit) -> bool:
    """Tell whether a unit binds a literal to plain names; `model.alpha = 0.5` changes an object."""
    value, effects = assigned_value(unit), unit.effects
    return value is not None and is_literal(value) and effects.writes == effects.kills and not effects.mutates


def is_shape_read_unit(unit: Unit, fed: Callable[[ast.expr], bool]) -> bool:
    """Tell whether a unit binds sizes of the batch."""
    value = assigned_value(unit)
    return value is not None and is_shape_read(value) and fed(value)


def assigned_value(unit: Unit) -> ast.expr | None:
    """Return what a unit binds a name to, None for units that do something else."""
    match unit.node:
        case ast.Assign(value=value) | ast.AnnAssign(value=value) if not unit.is_head:
            return value
        case _:
            return None


def place_rest(cut: Slice, regions: dict[Unit, frozenset[Region]]) -> Placement:
    """Place what is not in the slice: in source order, after the loop from the first reader of a loop value on."""
    micro_only = [u for u, r in regions.items() if r == MICRO]
    exports = frozenset(n for u in micro_only for n in u.effects.writes)
    first = min(cut.units.index(u) for u in micro_only)
    bound: set[str] = set()
    reader_seen = backward_seen = False
    for position, unit in enumerate(cut.units):
        if unit.is_head or unit in regions:
            if regions.get(unit) == MICRO:
                bound |= unit.effects.writes
            continue
        if position > cut.last:
            regions[unit] = AFTER
        elif backward_call(unit.node) is not None:
            regions[unit] = frozenset()
            backward_seen = True
        elif is_clearing(unit.node):
            regions[unit] = BEFORE
        else:
            touched = unit.effects.reads | unit.effects.changes
            is_tested = any(isinstance(f.node, ast.If) and waits_for(f.node.test, bound) for f in unit.forks)
            reads_loop_value = (
                bool(overlap(touched, bound)) or is_tested or (bool(bound) and returns_jump(unit.node) is not None)
            )
            reader_seen |= backward_seen or reads_loop_value or _writes_what_is_read(unit, position, cut, regions)
            regions[unit] = AFTER if reader_seen else BEFORE
    return Placement(regions, exports, first)


def _writes_what_is_read(unit: Unit, position: int, cut: Slice, regions: dict[Unit, frozenset[Region]]) -> bool:
    """Whether running a unit before the loop would change what a slice statement above it reads."""
    above = [u for u in cut.units[:position] if Region.MICRO in regions.get(u, frozenset())]
    return any(overlap(unit.effects.changes, u.effects.reads) for u in above)


def conflict(cut: Slice, placement: Placement, fed: Iterable[str]) -> tuple[Unit, Unit, str] | None:
    """Return two units whose order would change although one sees what the other does, and the path they share."""
    units = [u for u in cut.units[: cut.last + 1] if not u.is_head and placement.regions.get(u)]
    values = placement.exports | frozenset(fed)
    for index, early in enumerate(units):
        for late in units[index + 1 :]:
            path = (
                None
                if exclude(early.forks, late.forks)
                else _clash(early, placement.regions[early], late, placement.regions[late], values)
            )
            if path is not None:
                return early, late, path
    return None


def _clash(
    early: Unit, early_in: frozenset[Region], late: Unit, late_in: frozenset[Region], values: frozenset[str]
) -> str | None:
    if is_clearing(early.node) or is_clearing(late.node):
        return None
    last_start, first_late = max(early_in), min(late_in)
    if last_start <= first_late:
        return None
    a, b = early.effects, late.effects
    a_changes = a.changes | (a.hands_over - values)  # a log function is not feared to change the loss it is given
    if min(early_in) > first_late:
        path = overlap(b.reads, a_changes)
        if path is not None:
            return path
    b_changes = b.changes | (b.hands_over - values)
    return overlap(a.reads, b_changes) or (overlap(a_changes, b_changes) if len(early_in) == 1 else None)

"""A block of statements as a flat list of units, and its projection on some of them."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from accum_magic.cell.effects import Effects, expression_effects, sequence_effects, statement_effects
from accum_magic.cell.recognise import backward_call


@dataclass(frozen=True, slots=True)
class Fork:
    """A compound statement around a unit, inside the block."""

    node: ast.If | ast.With
    field: str  # "body" or "orelse"


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A statement that is moved as a whole, or the head (test, context managers) of one that is taken apart."""

    node: ast.stmt
    forks: tuple[Fork, ...]
    effects: Effects
    is_head: bool = False

    @property
    def line(self) -> int:
        """First line of the statement in the cell, 1-based."""
        return self.node.lineno

    @property
    def has_own_step(self) -> bool:
        """Whether the unit is a loop (or a `try`) with a backward of its own: a step inside the step, taken whole."""
        return not self.is_head and any(backward_call(s) is not None for s in _run_by(self.node) if s is not self.node)

    @property
    def is_conditional(self) -> bool:
        """Whether the unit stands below an `if` of the block."""
        return any(isinstance(f.node, ast.If) for f in self.forks)


def _run_by(node: ast.stmt) -> Iterator[ast.stmt]:
    """Yield a statement and those inside it, without what a definition in it only defines."""
    yield node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _run_by(child)
        elif isinstance(child, ast.ExceptHandler | ast.match_case):
            yield from (s for inner in child.body for s in _run_by(inner))


def inside(unit: Unit) -> Iterator[Unit]:
    """Yield the simple statements of a loop (or a `try`) as units, in source order; none is sure to run."""
    for node in _run_by(unit.node):
        if node is not unit.node and not hasattr(node, "body"):
            yield Unit(node, unit.forks, replace(statement_effects(node), kills=frozenset()))


def flatten(
    body: Sequence[ast.stmt], is_split: Callable[[ast.stmt], bool], forks: tuple[Fork, ...] = ()
) -> Iterator[Unit]:
    """Yield the units of a block in source order; the compound statements that `is_split` are taken apart."""
    for node in body:
        if isinstance(node, ast.If | ast.With) and is_split(node):
            yield Unit(node, forks, _head_effects(node), is_head=True)
            yield from flatten(node.body, is_split, (*forks, Fork(node, "body")))
            yield from flatten(getattr(node, "orelse", []), is_split, (*forks, Fork(node, "orelse")))
        else:
            yield Unit(node, forks, statement_effects(node))


def _head_effects(node: ast.If | ast.With) -> Effects:
    if isinstance(node, ast.If):
        return expression_effects(node.test)
    return sequence_effects([ast.With(items=node.items, body=[ast.Pass()])])


def project(
    body: Sequence[ast.stmt],
    is_split: Callable[[ast.stmt], bool],
    emit: Callable[[ast.stmt], Sequence[ast.stmt]],
    tests: Mapping[ast.stmt, ast.expr],
) -> list[ast.stmt]:
    """Rebuild a block from what `emit` gives for each unit's statement; compound statements left empty vanish.

    `tests` replaces the tests of taken-apart `if`s by names that hold their value.
    """
    out: list[ast.stmt] = []
    for node in body:
        if not (isinstance(node, ast.If | ast.With) and is_split(node)):
            out.extend(emit(node))
            continue
        inner = project(node.body, is_split, emit, tests)
        other = project(getattr(node, "orelse", []), is_split, emit, tests)
        out.extend(emit(node))  # what has to stand before the compound statement, such as its test's value
        if not inner and not other:
            continue
        rebuilt = copy.copy(node)
        rebuilt.body = inner or [ast.copy_location(ast.Pass(), node)]
        if isinstance(rebuilt, ast.If):
            rebuilt.orelse = other
            rebuilt.test = copy.deepcopy(tests.get(node, rebuilt.test))
        out.append(rebuilt)
    return out

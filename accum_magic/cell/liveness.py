"""Which names are read after a place: those have to be brought out of the micro-batches."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from accum_magic.cell.effects import expression_effects, root, sequence_effects
from accum_magic.cell.parse import Place, is_function, is_loop
from accum_magic.cell.recognise import nodes


@dataclass(frozen=True, slots=True)
class LiveNames:
    """Names whose value matters after a place."""

    read: frozenset[str]  # read later in the cell
    at_module: bool  # what is bound here stays in the notebook's namespace


def live_after(places: Sequence[Place], rest: Sequence[ast.stmt]) -> LiveNames:
    """Return the names read after the statements of `places[-1]`, where `rest` still follow in that list."""
    reads: set[str] = set()
    killed: set[str] = set()

    def then(statements: Sequence[ast.stmt]) -> None:
        effects = sequence_effects(statements)
        reads.update(root(p) for p in effects.reads if root(p) not in killed)
        killed.update(effects.kills)

    then(rest)
    for depth in range(len(places) - 1, -1, -1):
        owner = places[depth].owner
        if is_function(owner):
            declared = _declared_outside(owner)
            return LiveNames(frozenset(reads | declared), at_module=False)
        if isinstance(owner, ast.Module):
            return LiveNames(frozenset(reads), at_module=True)
        if is_loop(owner):
            reads.update(root(p) for p in _next_iteration(owner) if root(p) not in killed)
            killed = set()  # the loop may end here: what the next iteration binds is not bound behind it
            then_loop = getattr(owner, "orelse", [])
            reads.update(root(p) for p in sequence_effects(then_loop).reads)
        elif isinstance(owner, ast.Try | ast.TryStar):
            reads.update(root(p) for p in sequence_effects(owner.finalbody).reads)
        if depth:
            above = places[depth - 1]
            then(above.body[above.index + 1 :])
    return LiveNames(frozenset(reads), at_module=False)


def _next_iteration(loop: ast.AST) -> frozenset[str]:
    if isinstance(loop, ast.While):
        return expression_effects(loop.test).reads | sequence_effects(loop.body).reads
    assert isinstance(loop, ast.For | ast.AsyncFor)  # noqa: S101 - for the type checker
    targets = frozenset(n.id for n in nodes(loop.target) if isinstance(n, ast.Name))
    return frozenset(p for p in sequence_effects(loop.body).reads if root(p) not in targets)


def _declared_outside(function: ast.AST) -> set[str]:
    own = [n for n in nodes(function) if isinstance(n, ast.Global | ast.Nonlocal)]
    return {name for node in own for name in node.names}

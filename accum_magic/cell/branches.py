"""Branches of `if`s around backwards: which exclude each other, when a backward runs, which tests wait for the loss."""

from __future__ import annotations

import ast
import copy
from collections.abc import Collection, Iterable, Sequence

from accum_magic.cell.effects import expression_effects, overlap, path_of
from accum_magic.cell.recognise import BackwardCall, nodes
from accum_magic.cell.units import Fork, Unit

Path = tuple[Fork, ...]


def exclude(left: Sequence[Fork], right: Sequence[Fork]) -> bool:
    """Tell whether two places never run in one step: they stand in the two branches of one `if`."""
    return any(a.node is b.node and a.field != b.field for a in left for b in right)


def roots_of(units: Sequence[Unit], triple: Sequence[BackwardCall]) -> tuple[tuple[BackwardCall, ...], ...]:
    """Group the backwards of a triple: each group is one loss, taken from whichever branch runs."""
    forks = {u.node: u.forks for u in units}
    groups: list[list[BackwardCall]] = []
    for call in triple:
        group = groups[-1] if groups else []
        if group and all(exclude(forks[call.statement], forks[other.statement]) for other in group):
            group.append(call)
        else:
            groups.append([call])
    return tuple(tuple(group) for group in groups)


def conditions_of(paths: Iterable[Path]) -> frozenset[Path]:
    """Return the shortest branches under which one of some places runs; the empty one says always."""
    found = set(paths)
    while True:
        covered = next((p[:-1] for p in found if p and (*p[:-1], _opposite(p[-1])) in found), None)
        if covered is None:
            return frozenset(found)
        found = {p for p in found if p[: len(covered)] != covered} | {covered}


def _opposite(fork: Fork) -> Fork:
    return Fork(fork.node, "orelse" if fork.field == "body" else "body")


def answered(test: ast.expr, losses: Collection[str], torch: ast.expr | None = None) -> ast.expr:
    """Return a test in which `loss.requires_grad` is replaced by what decides it: `torch.is_grad_enabled()`."""
    asked = [n for n in nodes(test) if isinstance(n, ast.Attribute) and n.attr == "requires_grad"]
    if not any(path_of(n.value) in losses for n in asked):
        return test
    out: ast.expr = _Answer(losses, torch or ast.Name(id="torch", ctx=ast.Load())).visit(copy.deepcopy(test))
    return out


class _Answer(ast.NodeTransformer):
    def __init__(self, losses: Collection[str], torch: ast.expr) -> None:
        self.losses, self.torch = losses, torch

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if node.attr == "requires_grad" and path_of(node.value) in self.losses:
            return ast.Call(ast.Attribute(self.torch, "is_grad_enabled", ast.Load()), [], [])
        return node


def waits_for(test: ast.expr, values: Collection[str]) -> str | None:
    """Return which value of the loop a test needs, None where it can be answered before."""
    return overlap(expression_effects(answered(test, values)).reads, values)

"""Parts of a micro-batch expression that must see the whole batch, or be drawn once: evaluated before the loop."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from accum_magic.cell.reach import Flow
from accum_magic.cell.recognise import contains_cross_sample, contains_draw, is_reduction_over_batch, last_name
from accum_magic.cell.units import Unit

Node = TypeVar("Node", bound=ast.AST)


@dataclass(frozen=True, slots=True)
class Hoist:
    """An expression inside `statement` that runs once on the whole batch, under a name of its own."""

    statement: ast.stmt
    expression: ast.expr
    name: str
    is_batch: bool = False  # a slice of the data that the cell gives no name

    @property
    def is_whole(self) -> bool:
        """Whether the value is a statistic of the batch, not a value per sample."""
        return is_reduction_over_batch(self.expression)


def hoists_of(unit: Unit, flow: Flow) -> list[Hoist]:
    """Find the largest graph-free expressions of a statement that draw random numbers or look across samples."""
    if isinstance(unit.node, ast.For | ast.AsyncFor | ast.While | ast.With | ast.If | ast.Try):
        return []
    finder = _Finder(flow)
    finder.visit(unit.node)
    line = unit.node.lineno
    return [
        Hoist(unit.node, node, f"_{'batch' if node in flow.slices else 'whole'}_{line}_{i}", node in flow.slices)
        for i, node in enumerate(finder.found, 1)
    ]


def replaced(node: Node, named: Mapping[ast.expr, str]) -> Node:
    """Return a statement or expression with the hoisted parts replaced by their names; the original stays."""
    return rebuilt(node, named.get) if named else node


def rebuilt(node: Node, name_for: Callable[[ast.expr], str | None]) -> Node:
    """Return a copy in which every expression that has a name is replaced by it."""
    if isinstance(node, ast.expr):
        name = name_for(node)
        if name is not None:
            return ast.copy_location(ast.Name(id=name, ctx=getattr(node, "ctx", ast.Load())), node)  # type: ignore[return-value]
    out = copy.copy(node)
    for key, value in ast.iter_fields(node):
        if isinstance(value, ast.AST):
            setattr(out, key, rebuilt(value, name_for))
        elif isinstance(value, list):
            setattr(out, key, [rebuilt(v, name_for) if isinstance(v, ast.AST) else v for v in value])
    return out


class _Finder(ast.NodeVisitor):
    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.found: list[ast.expr] = []
        self.operands: set[ast.expr] = set()

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            return
        if isinstance(node, ast.BinOp):
            self.operands |= {node.left, node.right}
        if isinstance(node, ast.expr) and not isinstance(node, ast.Starred) and self._is_hoistable(node):
            self.found.append(node)
            return
        self.generic_visit(node)

    def _is_hoistable(self, node: ast.expr) -> bool:
        if node in self.flow.slices or self.flow.makes_as_many(node) or self._counts_samples(node):
            return True
        looks_across = contains_cross_sample(node) and self.flow.is_fed(node)
        picks = isinstance(node, ast.Subscript | ast.Call) and self.flow.picks_samples(node)
        return (contains_draw(node) or looks_across or picks) and not self.flow.reaches(node)

    def _counts_samples(self, node: ast.expr) -> bool:
        """Whether the samples are numbered and calculated with: `0.9 ** torch.arange(len(x))`."""
        is_count = isinstance(node, ast.Call) and last_name(node.func) in {"arange", "linspace"}
        return is_count and node in self.operands and self.flow.is_fed(node)

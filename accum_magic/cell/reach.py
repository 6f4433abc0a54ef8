"""Which statements reach a module, and which are fed by the batch: SPEC section 4's line."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from accum_magic.cell.definitions import Uses, uses_nothing_known
from accum_magic.cell.effects import expression_effects, overlaps, path_of, root, statement_effects
from accum_magic.cell.namespace import Lookup
from accum_magic.cell.recognise import (
    DRAWS,
    FACTORIES,
    calls,
    contains_cross_sample,
    contains_draw,
    contains_index_maker,
    is_some_rows,
    is_transparent,
    last_name,
    nodes,
)
from accum_magic.cell.units import Unit

_PARAMETERS = frozenset({"weight", "bias"})
_NO_GRAPH = frozenset({"data", "device", "dtype", "grad", "is_cuda", "ndim", "requires_grad", "shape", "size"})


@dataclass(slots=True)
class Flow:
    """The forward slice of the batch, grown statement by statement."""

    lookup: Lookup
    uses: Uses = uses_nothing_known  # what the cell's own definitions tell of names that the namespace does not have
    fed: set[str] = field(default_factory=set)  # names that hold something computed from the batch
    crossing: set[str] = field(default_factory=set)  # those of them that are bound before the micro-batches
    reaching: set[str] = field(default_factory=set)  # names that may carry a graph
    modules: set[str] = field(default_factory=set)  # callees that carried the batch into a graph
    unknown: set[str] = field(default_factory=set)  # callees of which nothing is known but that they get the batch
    indices: set[str] = field(default_factory=set)  # names that hold positions of samples: `perm = torch.randperm(n)`
    named: frozenset[str] = frozenset()  # what the user says to hold something per sample stays fed, whatever binds it
    doubts_functions: bool = False  # nothing reaches a module: a function that is given the batch may hold one
    rows_first: bool = True  # no name has its batch dimension elsewhere than in front
    draws_feed: bool = False  # no loop binds a batch: what the step draws or slices itself is the batch
    slices: set[ast.expr] = field(default_factory=set)  # a batch without a name: `X[a:b]` inside a call
    sizes: set[str] = field(default_factory=set)  # names that say how many samples the step draws: `torch.randn(n, 8)`
    settled: set[str] = field(default_factory=set)  # names bound in the block without reaching anything

    def is_fed(self, node: ast.AST) -> bool:
        """Tell whether an expression or statement reads what comes from the batch."""
        if self.slices and any(n in self.slices for n in nodes(node)):
            return True
        return any(overlaps(p, self.fed) for p in _reads(node))

    def reaches(self, node: ast.AST) -> bool:
        """Tell whether an expression or statement may build a graph."""
        by_call = [self._call_reaches(c) for c in calls(node)]  # every one is asked: the callees are remembered
        by_name = any(overlaps(p, self.reaching) or self._is_trainable(p) for p in _reads(node))
        return any(by_call) or by_name or self._operand_reaches(node) or self._reads_parameter(node)

    def seed(self, names: Iterable[str]) -> None:
        """Name what holds the batch when the block begins."""
        names = frozenset(names)
        self.fed |= names
        self.crossing |= names

    def picks_samples(self, node: ast.AST) -> bool:
        """Tell whether an expression takes samples by their positions in the batch: `x[perm]`."""
        parts = [n for n in nodes(node) if isinstance(n, ast.Subscript) and self.is_fed(n.value)]
        by_index = any(overlaps(p, self.indices) for n in parts for p in _reads(n.slice))
        return by_index or (self.rows_first and any(is_some_rows(n) for n in parts))

    def makes_as_many(self, node: ast.AST) -> bool:
        """Tell whether an expression makes a constant for each sample that the step draws: `torch.ones(n, 1)`."""
        return isinstance(node, ast.Call) and last_name(node.func) in FACTORIES and _size_name(node) in self.sizes

    def take(self, unit: Unit, *, fed: bool, reaches: bool) -> None:
        """Note what a unit hands on to those behind it."""
        changed = unit.effects.changes
        if contains_index_maker(unit.node) and not (fed and reaches):
            self.indices |= unit.effects.writes
        if self.draws_feed:
            self.sizes |= {s for c in calls(unit.node) if last_name(c.func) in DRAWS and (s := _size_name(c))}
        states = [(self.fed, fed), (self.reaching, reaches)]
        if not (fed and reaches):
            states.append((self.crossing, fed))
        for names, now in states:
            if now:
                names.update(changed)
            elif not unit.is_conditional:
                names.difference_update(
                    unit.effects.kills - (self.named if names is not self.reaching else frozenset())
                )
        if reaches:
            self.settled -= changed
        else:
            self.settled |= unit.effects.writes

    def _call_reaches(self, call: ast.Call) -> bool:
        callee = path_of(call.func)
        is_fed = any(self.is_fed(a) for a in [*call.args, *(k.value for k in call.keywords)])
        if callee is None:
            method_of_value = isinstance(call.func, ast.Attribute) and not isinstance(call.func.value, ast.Call)
            return is_fed and not method_of_value and not self._is_method_of_value(call.func)
        known = self._fact(callee)
        if known is None and (is_transparent(callee) or self._is_method_of_value(call.func)):
            known = False
        if known is False and not is_transparent(callee) and not self._is_method_of_value(call.func):
            known = (self.doubts_functions and is_fed) or self._arguments_reach(call)
        if known is not None:
            if known and is_fed:
                self.modules.add(callee)
            return known
        if is_fed:
            self.modules.add(callee)
            self.unknown.add(callee)
        return is_fed

    def _arguments_reach(self, call: ast.Call) -> bool | None:
        """Whether a harmless function is given a module, or something of which nothing is known."""
        paths = [path_of(a) for a in [*call.args, *(k.value for k in call.keywords)]]
        named = [p for p in paths if p is not None and not overlaps(p, self.fed) and root(p) not in self.settled]
        known = [self._fact(p) if self.lookup(p) is not None else self.uses(p) for p in named]
        return True if True in known else None if None in known else False

    def _is_trainable(self, path: str) -> bool:
        """A tensor of the namespace that requires grad: reading it is enough."""
        if root(path) in self.settled or overlaps(path, self.fed):
            return False
        fact = self.lookup(path)
        return fact is not None and fact.kind in {"tensor", "container"} and bool(fact.reaches)

    def _reads_parameter(self, node: ast.AST) -> bool:
        """`model[0].weight.norm()`; not `model.fc.weight.device`."""
        asked = {n.value for n in nodes(node) if isinstance(n, ast.Attribute) and n.attr in _NO_GRAPH}
        found = [n for n in nodes(node) if isinstance(n, ast.Attribute) and n.attr in _PARAMETERS and n not in asked]
        names = (next((m.id for m in nodes(n) if isinstance(m, ast.Name)), "") for n in found)
        return any(self._kind(name) == "module" for name in names if name not in self.settled)

    def _is_method_of_value(self, func: ast.expr) -> bool:
        """`x.view`, `batch["ids"].to`: a method of something that came with the batch."""
        if not isinstance(func, ast.Attribute):
            return False
        inner = func.value
        base = path_of(inner)
        if base is None and self.is_fed(inner):
            return not any(self._call_reaches(c) for c in calls(inner))
        if base is not None and any(base == o or base.startswith(f"{o}.") for o in self.fed):
            return True  # `self` is no value of the batch where only `self.x` is
        return base is not None and "." not in base and self._kind(base) in {"tensor", "value", "container"}

    def _operand_reaches(self, node: ast.AST) -> bool:
        """`x @ w`: an operand that requires grad, or of which nothing is known."""
        reads = _reads(node)
        for operand in _operands(node):
            path = path_of(operand)
            if path is None or overlaps(path, self.fed) or not overlaps(path, reads):
                continue  # a comprehension's own names are not read from outside
            known = self._fact(path)
            if known:
                return True
            if known is None and self._may_require_grad(path) and self.is_fed(node):
                return not (contains_cross_sample(node) or contains_draw(node))
        return False

    def _may_require_grad(self, path: str) -> bool:
        return root(path) not in self.settled and self.lookup(root(path)) is None

    def _fact(self, path: str) -> bool | None:
        """What the namespace says of a path, or of the longest known part of it."""
        while path:
            fact = self.lookup(path)
            if fact is not None:
                return fact.reaches
            path = path.rpartition(".")[0]
        return None

    def _kind(self, path: str) -> str | None:
        fact = self.lookup(path)
        return None if fact is None else fact.kind


def _reads(node: ast.AST) -> frozenset[str]:
    effects = statement_effects(node) if isinstance(node, ast.stmt) else expression_effects(node)
    return effects.reads


def _size_name(call: ast.Call) -> str | None:
    """Return the name that is the first size of a draw or a factory."""
    match call.args:
        case [ast.Name(id=name), *_] | [ast.Tuple(elts=[ast.Name(id=name), *_]), *_]:
            return name
        case _:
            return None


def _operands(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what is added, multiplied and so on; a graph does not go through positions: `X[i * n : i * n + n]`."""
    if isinstance(node, ast.BinOp):
        yield from (node.left, node.right)
    elif isinstance(node, ast.AugAssign):
        yield node.value
    for child in [node.value] if isinstance(node, ast.Subscript) else ast.iter_child_nodes(node):
        yield from _operands(child)

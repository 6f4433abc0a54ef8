"""Statements of the slice that are fed by the batch and call a module, and yet run once, on the whole batch."""

from __future__ import annotations

import ast
from collections.abc import Collection

from accum_magic.cell.effects import expression_effects, overlap, path_of
from accum_magic.cell.recognise import is_reduction_over_batch, last_name
from accum_magic.cell.units import Unit

_NO_GRADIENT = frozenset({"no_grad", "inference_mode"})
_COUNTS = frozenset({"bincount", "histc", "unique"})


def fills_without_graph(unit: Unit, bound: Collection[str]) -> bool:
    """Tell whether a unit under `no_grad` fills a part of a tensor: `values[mask] = target_net(rows).max(1).values`.

    The rows under a mask are no samples of one micro-batch. `bound` are names bound per micro-batch.
    """
    contexts = [item.context_expr for f in unit.forks if isinstance(f.node, ast.With) for item in f.node.items]
    names = {last_name(c.func if isinstance(c, ast.Call) else c) for c in contexts}
    if not (names & _NO_GRADIENT and isinstance(unit.node, ast.Assign)):
        return False
    is_part = all(isinstance(t, ast.Subscript) for t in unit.node.targets)
    return is_part and not overlap(unit.effects.reads | unit.effects.mutates, bound)


def detaches_earlier(unit: Unit, bound: Collection[str]) -> bool:
    """Tell whether all a unit does is to cut the graph of an earlier step's value: `state.detach_()`."""
    match unit.node:
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr="detach_", value=value))):
            return path_of(value) is not None and not overlap(unit.effects.mutates, bound)
        case _:
            return False


def makes_criterion(unit: Unit, statistics: Collection[str]) -> bool:
    """Tell whether a unit makes a module of statistics of the batch: `nn.BCEWithLogitsLoss(pos_weight=n / p)`."""
    value = unit.node.value if isinstance(unit.node, ast.Assign) else None
    if not (isinstance(value, ast.Call) and _is_module_class(value.func)):
        return False
    given = [*value.args, *(k.value for k in value.keywords)]
    return all(isinstance(a, ast.Constant) or is_statistic(a, statistics) for a in given)


def _is_module_class(callee: ast.expr) -> bool:
    path = path_of(callee) or ""
    return path.startswith(("nn.", "torch.nn.")) and last_name(callee)[:1].isupper()


def is_statistic(node: ast.AST | None, statistics: Collection[str]) -> bool:
    """Tell whether an expression is a value of the whole batch, made of reductions over it."""
    match node:
        case ast.Name(id=name):
            return name in statistics
        case ast.Call() if is_reduction_over_batch(node) or last_name(node.func) in _COUNTS:
            return True
        case ast.Call(func=ast.Attribute(value=value), args=args):
            return is_statistic(value, statistics) and not any(expression_effects(a).reads for a in args)
        case ast.BinOp(left=left, right=right):
            sides = [s for s in (left, right) if not isinstance(s, ast.Constant)]
            return bool(sides) and all(is_statistic(s, statistics) for s in sides)
        case _:
            return False

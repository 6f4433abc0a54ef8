"""How many steps a cell will take, as expressions that the namespace can answer before it runs."""

from __future__ import annotations

import ast

from accum_magic.cell.effects import path_of, root
from accum_magic.cell.parse import enclosing_function
from accum_magic.cell.planned import Plan, StepPlan
from accum_magic.cell.recognise import calls, last_name, nodes

_WRAPPERS = frozenset({"enumerate", "tqdm", "trange", "track", "list", "reversed", "notebook_tqdm"})


def step_counts(plan: Plan) -> list[list[str]] | None:
    """Return, for each step of the cell, expressions whose product is the number of times it runs; None if unknown."""
    bound = {n.id for n in nodes(plan.parsed.tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    counts = [_loop_lengths(step, bound) for step in plan.steps]
    return None if None in counts else [c for c in counts if c is not None]


def _loop_lengths(step: StepPlan, bound: set[str]) -> list[str] | None:
    if enclosing_function(step.places) is not None:
        return None
    lengths = []
    for place in step.places:
        owner = place.owner
        if isinstance(owner, ast.While | ast.AsyncFor):
            return None
        if isinstance(owner, ast.For):
            length = _length(owner.iter, bound)
            if length is None:
                return None
            lengths.append(length)
    return lengths


def _length(source: ast.expr, bound: set[str]) -> str | None:
    match source:
        case ast.Name() | ast.Attribute():
            path = path_of(source)
            return None if path is None or root(path) in bound else f"len({path})"
        case ast.Call(func=func, args=args) if last_name(func) in {"range", "trange"}:
            names = {root(p) for a in args for n in nodes(a) if isinstance(n, ast.expr) and (p := path_of(n))}
            is_plain = not any(isinstance(n, ast.Call) and last_name(n.func) != "len" for a in args for n in nodes(a))
            return None if names & bound or not is_plain else f"len(range({', '.join(map(ast.unparse, args))}))"
        case ast.Call(func=func, args=[first, ast.Constant(int(n)), *_]) if last_name(func) == "window":
            length = _length(first, bound)
            return None if length is None else f"-(-{length} // {n})"
        case ast.Call(func=func, args=[first, *_]) if last_name(func) in _WRAPPERS:
            return _length(first, bound)
        case ast.List(elts=elts) | ast.Tuple(elts=elts):
            return str(len(elts))
        case _:
            return None


def schedulers_stepped(plan: Plan) -> set[str]:
    """Return the names whose `step` is called once per step of the cell: optimizers, and schedulers if they are."""
    blocks = [step.places[-1].body for step in plan.steps]
    found = {path_of(c.func.value) for body in blocks for statement in body for c in calls(statement)
             if isinstance(c.func, ast.Attribute) and c.func.attr == "step"}  # fmt: skip
    return {path for path in found if path is not None}

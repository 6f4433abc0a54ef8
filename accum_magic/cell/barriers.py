"""What stands between two backwards and may change parameters or gradients, so that they cannot share one loop."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from accum_magic.cell.effects import base_path, expression_effects, path_of, root
from accum_magic.cell.parse import Backward
from accum_magic.cell.recognise import calls, is_clearing, is_transparent, is_update, last_name, nodes

_LOGS = frozenset(
    {
        "append", "extend", "insert", "write", "log", "log_metrics", "info", "debug", "warning", "add_scalar",
        "add_scalars", "add_image", "add_images", "set_description", "set_description_str", "set_postfix",
        "set_postfix_str", "display",
    }
)  # fmt: skip
_METERS = frozenset({"add", "update", "record", "track", "accumulate"})
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def barrier(
    body: Sequence[ast.stmt],
    backwards: tuple[Backward, Backward],
    forward: frozenset[ast.stmt],
    own: frozenset[str],
) -> ast.stmt | None:
    """Return the first statement between two backwards that may change parameters or gradients.

    `forward` are the statements of the second loss, `own` the names that the step binds itself.
    """
    return next((s for s in between(body, *backwards) if _may_change(s, forward, own)), None)


def between(body: Sequence[ast.stmt], first: Backward, second: Backward) -> list[ast.stmt]:
    """Return the statements of a list that may run between two backwards, those inside of others too."""
    start, stop = _position(first.call.statement), _position(second.call.statement)
    inside = _without_branches(body, {(id(owner), field) for owner, field in (*first.branches, *second.branches)})
    return [s for s in inside if start < _position(s) < stop and not isinstance(s, ast.With | ast.If)]


def _without_branches(body: Sequence[ast.stmt], taken: set[tuple[int, str]]) -> Iterator[ast.stmt]:
    """Yield all statements but those in the other branches of the `if`s whose branches are `taken`."""
    for statement in body:
        yield statement
        for field in ("body", "orelse", "finalbody"):
            other = "orelse" if field == "body" else "body"
            if not (isinstance(statement, ast.If) and (id(statement), other) in taken):
                yield from _without_branches(getattr(statement, field, []), taken)
        for child in [*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())]:
            yield from _without_branches(child.body, taken)


def _position(statement: ast.stmt) -> tuple[int, int]:
    return statement.lineno, statement.col_offset  # `loss.backward(); optimizer.step()` is one line


def _may_change(statement: ast.stmt, forward: frozenset[ast.stmt], own: frozenset[str]) -> bool:
    if is_update(statement) or is_clearing(statement):
        return True
    if statement in forward or isinstance(statement, _DEFINITIONS):
        return False
    parts = _own_parts(statement)
    if any(_touches_parameters(part) for part in parts):
        return True
    nobody_takes = statement.value if isinstance(statement, ast.Expr) else None
    return any(not _is_harmless(c, own, taken=c is not nobody_takes) for part in parts for c in calls(part))


def _own_parts(statement: ast.stmt) -> list[ast.AST]:
    """Return what a statement evaluates itself; the statements inside it are asked one by one."""
    match statement:
        case ast.For(iter=head) | ast.AsyncFor(iter=head) | ast.While(test=head):
            return [head]
        case ast.Try() | ast.TryStar() | ast.Match():
            return []
        case _:
            return [statement]


def _touches_parameters(node: ast.AST) -> bool:
    for part in nodes(node):
        match part:
            case ast.Attribute(attr="parameters" | "named_parameters" | "param_groups"):
                return True
            case ast.Attribute(attr="data", ctx=ast.Store()):
                return True
    return False


def _is_harmless(call: ast.Call, own: frozenset[str], *, taken: bool) -> bool:
    """Whether a call can't reach parameters: a log, a library function, or one that is given values of the step."""
    name, given = last_name(call.func), [*call.args, *(k.value for k in call.keywords)]
    if isinstance(call.func, ast.Attribute):
        owner = base_path(call.func.value)
        if owner is None or root(owner) in own:
            return True  # a method of a value, such as `out.mean()`; the calls inside are asked by themselves
    if is_transparent(path_of(call.func) or ""):
        return not name.endswith("_")
    if name in _LOGS:
        return True
    is_given_values = bool(given) and all(_is_own(a, own) for a in given)
    return is_given_values and (taken or name in _METERS)


def _is_own(argument: ast.expr, own: frozenset[str]) -> bool:
    if isinstance(argument, ast.Call):
        return True  # asked by itself
    return all(root(p) in own for p in expression_effects(argument).reads)

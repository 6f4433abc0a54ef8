"""What of the rewritten cell is no user's: free names, small makers of nodes, and where those say they stand."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Sequence
from typing import TypeVar

from accum_magic.cell.effects import path_of
from accum_magic.cell.recognise import nodes

ENGINE = "accum_magic"
Node = TypeVar("Node", bound=ast.AST)


class FreshNames:
    """Plain identifiers that the cell does not use."""

    def __init__(self, tree: ast.AST) -> None:
        self.used = {n.id for n in nodes(tree) if isinstance(n, ast.Name)}
        self.used |= {n.arg for n in nodes(tree) if isinstance(n, ast.arg)}
        self.used |= {n.name for n in nodes(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}

    def make(self, name: str, *, free: bool = False) -> str:
        """Return `name`, or the first variation of it that is not used."""
        candidate, count = name, 1
        while candidate in self.used and not free:
            count += 1
            candidate = f"{name}_{count}"
        self.used.add(candidate)
        return candidate


def engine_name(tree: ast.AST) -> str:
    """Return the name under which a rewritten text knows the engine."""
    bound = {n.id for n in nodes(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    bound |= {n.arg for n in nodes(tree) if isinstance(n, ast.arg)}
    return FreshNames(tree).make(ENGINE, free=ENGINE not in bound)


class UndoBeforeJump(ast.NodeTransformer):
    """Puts a statement before every jump that leaves the step."""

    def __init__(self, undo: ast.stmt) -> None:
        self.undo = undo

    def _visit_jump(self, node: ast.stmt) -> list[ast.stmt]:
        return [copy.deepcopy(self.undo), node]

    visit_Break = visit_Continue = visit_Return = _visit_jump  # noqa: N815

    def visit_For(self, node: ast.For) -> ast.For:
        """Leave a loop or a definition inside as it is: its jumps are its own."""
        return node

    visit_While = visit_FunctionDef = visit_For  # type: ignore[assignment]  # noqa: N815


def placed_at(node: Node, where: ast.AST) -> Node:
    """Give a generated node, and all in it that has none, the place of the statement it stands for."""
    for part in _without_location(node):
        ast.copy_location(part, where)
    return node


def _without_location(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.stmt | ast.expr | ast.arg | ast.keyword | ast.alias) and not hasattr(node, "lineno"):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _without_location(child)


def is_detach(node: ast.AST, path: str) -> bool:
    """Tell whether a node is the attribute `detach` of a path."""
    return isinstance(node, ast.Attribute) and node.attr == "detach" and path_of(node.value) == path


def options_of(call: ast.Call) -> ast.Dict:
    """Return the keyword arguments of a backward as a dict."""
    keywords = [k for k in call.keywords if k.arg is not None]
    return ast.Dict(keys=[ast.Constant(k.arg) for k in keywords], values=[k.value for k in keywords])


def joined(op: ast.boolop, tests: list[ast.expr]) -> ast.expr:
    """Return tests joined by `and` or `or`; one test stays as it is."""
    return tests[0] if len(tests) == 1 else ast.BoolOp(op=op, values=tests)


def tuple_of(elements: Sequence[ast.expr]) -> ast.Tuple:
    """Return a tuple that is read."""
    return ast.Tuple(elts=list(elements), ctx=ast.Load())


def name_of(path: str, context: ast.expr_context) -> ast.expr:
    """Return the node of a name or of a chain of attributes."""
    owner, _, last = path.rpartition(".")
    if not owner:
        return ast.Name(id=last, ctx=context)
    return ast.Attribute(value=name_of(owner, ast.Load()), attr=last, ctx=context)


def parsed_expression(expression: str) -> ast.expr:
    """Return an expression that has no place in the cell yet."""
    node = ast.parse(expression, mode="eval").body
    for part in nodes(node):
        for key in ("lineno", "col_offset", "end_lineno", "end_col_offset"):
            part.__dict__.pop(key, None)
    return node

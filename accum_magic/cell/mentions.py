"""Which names a text reads that could be functions it calls, or hands to what calls them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from accum_magic.cell.effects import path_of
from accum_magic.cell.recognise import last_name

_RUNS_CODE = frozenset({"run_line_magic", "run_cell_magic"})  # `%time train(model)`, as IPython writes it


@dataclass(frozen=True, slots=True)
class Mention:
    """A name, or a chain of attributes on one, that a text reads."""

    path: str
    line: int
    is_made: bool = False  # the path's first part is called: `Trainer(model).fit`


def mentions(tree: ast.AST) -> list[Mention]:
    """Return what a text reads, in source order, each path once."""
    found: dict[tuple[str, bool], Mention] = {}
    for mention in sorted(read_by(tree), key=lambda m: m.line):
        found.setdefault((mention.path, mention.is_made), mention)
    return list(found.values())


def made_by(tree: ast.AST) -> dict[str, str]:
    """Return which names a text binds to what a call makes: `trainer = Trainer(model)`, by the callee's path."""
    made = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=func)):
                path = path_of(func)
                if path is not None:
                    made[name] = path
    return made


def read_by(node: ast.AST) -> Iterator[Mention]:
    """Yield each path that a node reads, as often as it does."""
    if isinstance(node, ast.expr):
        path = path_of(node)
        if path is not None:
            yield Mention(path, node.lineno)
            return
    match node:
        case ast.Attribute(value=ast.Call(func=func), attr=attr) if path_of(func) is not None:
            yield Mention(f"{path_of(func)}.{attr}", node.lineno, is_made=True)
        case ast.Call(func=func, args=[ast.Constant(), *rest]) if last_name(func) in _RUNS_CODE:
            yield from (m for argument in rest for m in _inside_text(argument, node.lineno))
    for child in ast.iter_child_nodes(node):
        yield from read_by(child)


def _inside_text(node: ast.expr, line: int) -> Iterator[Mention]:
    """What the code handed to a magic reads; `%time` and the like run it in the notebook's namespace."""
    if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return
    try:
        tree = ast.parse(node.value)
    except SyntaxError:
        return  # the arguments of another magic
    yield from (Mention(m.path, line, m.is_made) for m in read_by(tree))

"""Where a run can be stopped: at the end of each turn of the loops around an update."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping, Sequence

from accum_magic.cell.made import Node, placed_at
from accum_magic.cell.parse import is_loop
from accum_magic.cell.training_loops import Loop, training_loops

_JUMPS = (ast.Break, ast.Continue, ast.Return, ast.Raise)


def with_stops(tree: ast.Module, module: str, known: Mapping[str, bool], generated: frozenset[str]) -> ast.Module:
    """Ask `accum_magic.stopped()` at the end of each turn of the loops around an update; the tree is left as it is.

    A `break` there skips the loop's `else`, leaves its variables as the update has, and runs every `finally`.
    `known` holds the paths of what trains in other texts, each with whether it is a generator; `generated` the names
    of functions that are no user's.
    """
    loops = training_loops(tree, f"{module}.step", known, generated)
    return _Writer(loops, module).rebuilt(tree, None) if loops else tree


class _Writer:
    """Copies the nodes on the way to a loop that can be stopped; everything else stays the node that it is."""

    def __init__(self, loops: frozenset[Loop], module: str) -> None:
        self.loops, self.module = loops, module

    def rebuilt(self, node: Node, around: Loop | None) -> Node:
        """Return a node with the checks in it; a `continue` in it belongs to the loop `around`."""
        made = node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            part = getattr(node, field, None)
            if isinstance(part, list):
                new = self._field(node, field, part, around)
                if new != part:
                    made = copy.copy(node) if made is node else made
                    setattr(made, field, new)
        return made

    def _field(self, node: ast.AST, field: str, part: Sequence[ast.AST], around: Loop | None) -> list[ast.AST]:
        if field == "body" and node in self.loops:
            assert isinstance(node, Loop)  # noqa: S101 - for the type checker
            new = self._statements(part, node)
            return new if isinstance(part[-1], _JUMPS) else [*new, self._check(node)]
        is_own = field == "body" and (
            is_loop(node) or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        )
        # `break` in a `finally` would swallow an error on its way out
        return self._statements(part, None if is_own or field == "finalbody" else around)

    def _statements(self, part: Sequence[ast.AST], around: Loop | None) -> list[ast.AST]:
        out: list[ast.AST] = []
        for node in part:
            if isinstance(node, ast.Continue) and around is not None:
                out.append(self._check(around))
            out.append(self.rebuilt(node, around))
        return out

    def _check(self, loop: Loop) -> ast.stmt:
        """`if accum_magic.stopped(): break`, placed at the word `for`; its first name bears the lines of all the loop.

        There the engine reads which loops run.
        """
        head, whole = (ast.copy_location(ast.Pass(), loop) for _ in range(2))
        head.end_lineno, head.end_col_offset = loop.lineno, loop.col_offset + len("for")
        last = max(loop.body, key=lambda node: (node.end_lineno or 0, node.end_col_offset or 0))
        whole.end_lineno, whole.end_col_offset = last.end_lineno, last.end_col_offset
        module = placed_at(ast.Name(id=self.module, ctx=ast.Load()), whole)
        asked = ast.Call(func=ast.Attribute(value=module, attr="stopped", ctx=ast.Load()), args=[], keywords=[])
        return placed_at(ast.If(test=asked, body=[ast.Break()], orelse=[]), head)

"""A loop that accumulates gradients by hand → the plain loop to write instead, as text for the refusal."""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence

from accum_magic.cell.recognise import backward_call, steps_optimizer


def plain_loop(loop: ast.stmt, factor: str, counts: frozenset[str] = frozenset()) -> str:
    """Return a loop without the division of its loss by `factor` and without the test around its update.

    `counts` are names that hold whether it is every `factor`-th step.

    >>> loop = ast.parse('''
    ... for i, x in enumerate(loader):
    ...     loss = f(x) / k
    ...     loss.backward()
    ...     if (i + 1) % k == 0:
    ...         opt.step()
    ... ''').body[0]
    >>> print(plain_loop(loop, "k"))
    for i, x in enumerate(loader):
        loss = f(x)
        loss.backward()
        opt.step()
    """
    return ast.unparse(ast.fix_missing_locations(_Plain(factor, counts).visit(copy.deepcopy(loop))))


def factor_of(test: ast.AST) -> str | None:
    """Return the `k` of a test such as `(i + 1) % k == 0`."""
    modulo = next((n for n in ast.walk(test) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod)), None)
    return None if modulo is None else ast.unparse(modulo.right)


class _Plain(ast.NodeTransformer):
    def __init__(self, factor: str, counts: frozenset[str]) -> None:
        self.factor, self.counts = factor, counts

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return node.left if isinstance(node.op, ast.Div) and self._is_factor(node.right) else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST | None:
        self.generic_visit(node)
        return None if isinstance(node.op, ast.Div) and self._is_factor(node.value) else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        self.generic_visit(node)
        targets = [ast.unparse(t) for t in node.targets]
        is_itself = targets == [ast.unparse(node.value)]  # what is left of `loss = loss / k`
        return None if is_itself or self.counts.issuperset(targets) else node

    def visit_If(self, node: ast.If) -> ast.AST | Sequence[ast.stmt]:
        self.generic_visit(node)
        steps = any(steps_optimizer(s) for s in node.body) and not any(backward_call(s) for s in node.body)
        counted = any(isinstance(n, ast.Name) and n.id in self.counts for n in ast.walk(node.test))
        return node.body if steps and (counted or factor_of(node.test) == self.factor) else node

    def _is_factor(self, node: ast.expr) -> bool:
        return ast.unparse(node) == self.factor

"""Helpers for tests of training code: run a cell plainly and accumulated, in namespaces of your own."""

from __future__ import annotations

import ast
import linecache
from types import CodeType
from typing import Any, Literal

from accum_magic.api import rewrite_with
from accum_magic.bind import bound
from accum_magic.check import checking
from accum_magic.engine.comparison import CheckResult
from accum_magic.engine.run import begin
from accum_magic.options import Options, options_from


def run_plain(cell: str, namespace: dict[str, Any]) -> Any:
    """Run a cell as it stands; return the value of its last expression.

    >>> run_plain("a = 1; a + 1", {})
    2
    """
    return run_tree(ast.parse(cell), namespace, _with_source("<plain cell>", cell))


def run_accumulated(
    cell: str, namespace: dict[str, Any], n: int | Literal["auto"] | None = None, options: str = ""
) -> Any:
    """Run a cell as `%%accumulate n options` would; return the value of its last expression.

    Raises:
        AccumulateError: As the magic does.

    """
    rewritten = rewrite_with(cell, _parsed(n, options), namespace)
    leftovers = set(rewritten.generated) - set(namespace)
    run = begin()
    try:
        with bound(rewritten.functions):
            return run_tree(rewritten.tree, namespace, _with_source("<accumulated cell>", cell))
    finally:
        run.end()
        for name in leftovers:
            namespace.pop(name, None)


def run_checked(
    cell: str, namespace: dict[str, Any], n: int | Literal["auto"] | None = None, options: str = ""
) -> CheckResult:
    """Run one step of a cell both ways, as `%%accumulate n options --check` does; nothing is trained.

    Raises:
        AccumulateError: As the magic does.

    """
    rewritten = rewrite_with(cell, _parsed(n, options), namespace)
    with checking(rewritten, namespace) as check:
        run_tree(rewritten.tree, namespace, _with_source("<checked cell>", cell))
    return check.result


def _with_source(filename: str, cell: str) -> str:
    """Register a cell's text, so that tracebacks and `inspect` find it."""
    linecache.cache[filename] = (len(cell), None, cell.splitlines(keepends=True), filename)
    return filename


def _parsed(n: int | Literal["auto"] | None, options: str) -> Options:
    flags = {"--window", "--noise"}
    words = [w for w in options.split() if w not in flags]
    given = dict(zip(words[::2], words[1::2], strict=True))
    size = given.get("--size")
    return options_from(
        None if size else n,
        size,
        given.get("--batch"),
        given.get("--dim"),
        window="--window" in options,
        replay=given.get("--replay", "auto"),
        grad_dtype=given.get("--grad-dtype"),
        noise="--noise" in options,
        memory=given.get("--memory"),
    )


def run_tree(tree: ast.Module, namespace: dict[str, Any], filename: str) -> Any:
    """Execute a module and return the value of its last statement if that is an expression."""
    body, last = tree.body, None
    if body and isinstance(body[-1], ast.Expr):
        *body, final = body
        last = compile(ast.Expression(final.value), filename, "eval")  # type: ignore[attr-defined]
    code: CodeType = compile(ast.Module(body, []), filename, "exec")
    exec(code, namespace)
    return None if last is None else eval(last, namespace)  # noqa: S307 - so is its last line

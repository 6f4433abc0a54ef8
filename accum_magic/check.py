"""`--check` in the hall: what of a cell cannot be put back is refused, the rest runs, and all of it is undone."""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from accum_magic.bind import bound
from accum_magic.cell.parse import enclosing_function
from accum_magic.cell.rewrite import Rewrite
from accum_magic.errors import Refusal

if TYPE_CHECKING:
    from accum_magic.engine.comparison import CheckResult
    from accum_magic.engine.snapshot import OneShot, Snapshot


class Checking:
    """The check of a cell; its result stands here once the cell has run."""

    result: CheckResult


@contextmanager
def checking(rewritten: Rewrite, namespace: dict[str, Any]) -> Iterator[Checking]:
    """Let the block, which runs the rewritten cell, check each step once; everything is put back behind it.

    Raises:
        Refusal: The cell reads an iterator whose place cannot be put back; nothing has run.

    """
    from accum_magic.engine.check import Check, Enough
    from accum_magic.engine.run import aside

    snapshot = _snapshot(rewritten, namespace)
    steps = sum(len(r.plan.steps) for r in (rewritten, *(f.rewrite for f in rewritten.functions)))
    made = Checking()
    with snapshot, bound(rewritten.functions), aside() as run:
        check = run.check = Check(steps)
        with suppress(Enough):
            try:
                yield made
            except Exception as error:
                if not _is_behind(error, Enough):
                    raise
    made.result = check.result([*_advice(rewritten), *snapshot.notes] if not check.found else snapshot.notes)


def _is_behind(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Tell an error of a `finally` block on the way out: it reads what the step, which was left, had not bound yet."""
    while error is not None and not isinstance(error, kind):
        error = error.__context__
    return error is not None


def _advice(rewritten: Rewrite) -> list[str]:
    """Say where to look for the step of a cell that only defines the function with it."""
    functions = [enclosing_function(step.places) for step in rewritten.plan.steps]
    names = dict.fromkeys(f"`{f.name}`" for f in functions if f is not None)
    return [f"the step stands in {', '.join(names)}: put --check on the cell that calls it"] if names else []


def _snapshot(rewritten: Rewrite, namespace: dict[str, Any]) -> Snapshot:
    from accum_magic.engine.snapshot import Snapshot, is_one_shot

    parsed = rewritten.plan.parsed
    read, made = _read(symtable.symtable(parsed.text, "<cell>", "exec")), _made_anew(parsed.tree)
    words = dict.fromkeys(re.findall(r"\w+", rewritten.source))  # those in strings too: `%time step()` is one
    names = [w for w in words if w in namespace and (w in read - made or not is_one_shot(namespace[w]))]
    snapshot = Snapshot(namespace, names, [f.function for f in rewritten.functions])
    for one in snapshot.one_shot:
        name = re.split(r"[.\[]", one.label)[0]
        if name not in made:
            raise Refusal(_refusal(one, _line(parsed.tree, name)))
    return snapshot


def _read(table: symtable.SymbolTable) -> set[str]:
    """Return the names of the notebook that a text reads."""
    is_module = table.get_type() == "module"
    here = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (is_module or s.is_global())}
    return here.union(*map(_read, table.get_children()))


def _made_anew(tree: ast.Module) -> set[str]:
    """Return the names that a cell binds by a statement of its own before it reads them."""
    made: set[str] = set()
    read: set[str] = set()
    for statement in tree.body:
        first: list[ast.AST] = [statement]
        targets: list[ast.expr] = []
        match statement:
            case ast.Assign(targets=targets):
                pass
            case ast.AnnAssign(target=target, value=ast.expr()):
                targets = [target]
            case ast.For(target=target, iter=source):
                first, targets = [source], [target]
            case _:
                pass
        read |= _names(first, ast.Load)
        made |= _names(targets, ast.Store) - read
        read |= _names([statement], ast.Load)
    return made


def _names(parts: Iterable[ast.AST], context: type[ast.expr_context]) -> set[str]:
    nodes = (n for part in parts for n in ast.walk(part))
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, context)}


def _line(tree: ast.Module, name: str) -> int | None:
    names = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == name]
    return min((n.lineno for n in names if isinstance(n.ctx, ast.Load)), default=None)


def _refusal(one: OneShot, line: int | None) -> str:
    where = f"line {line}: " if line is not None else "a function of this cell reads an iterator: "
    return (
        f"{where}`{one.label}` is an iterator ({one.kind}). What --check takes from it could not be put back, and "
        "training would go on behind it. Make it in this cell, as `iter(loader)` does, loop over the loader itself, or "
        "run the cell without --check."
    )

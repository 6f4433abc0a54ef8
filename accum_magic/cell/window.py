"""`--window`: the loader of a step, seen as one whose batches are N times larger, wherever the step's scope asks it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from accum_magic.cell.batch import binds_data
from accum_magic.cell.effects import path_of, root
from accum_magic.cell.made import engine_name, placed_at
from accum_magic.cell.parse import ParsedCell, is_function
from accum_magic.cell.planned import PlanOptions
from accum_magic.cell.recognise import backward_call, calls, forget_nodes, last_name, nodes
from accum_magic.errors import Refusal

# they hand on one batch for each of the loader's: what they wrap is the loader
_HANDS_ON = frozenset(
    {"enumerate", "tqdm", "notebook_tqdm", "track", "progress_bar", "islice", "iter", "list", "cycle"}
)


@dataclass(frozen=True, slots=True)
class _Loop:
    """A `for` or a comprehension that binds a batch, and the function (or the cell) that it stands in."""

    target: ast.expr
    iter: ast.expr
    scope: ast.AST


def widen(
    parsed: ParsedCell, n: int, options: PlanOptions, is_step: Callable[[ast.AST], bool]
) -> frozenset[str] | None:
    """Put `accum_magic.window(loader, n)` in the place of the loader around every step; the tree is changed.

    In the function (or the cell) of the loop, also where the same loader is iterated once more, handed to `iter`,
    or asked for its length: all of them count batches, so all of them have to agree.

    Returns:
        The paths of the loaders; None where a step (a backward, or the call of a function that holds one) has no
        loader around it here.

    """
    module = engine_name(parsed.tree)
    found: set[str] = set()
    count = len(list(_around(parsed.tree, is_step, (), parsed.tree)))
    for position in range(count):
        loop = list(_around(parsed.tree, is_step, (), parsed.tree))[
            position
        ]  # anew: the one before may share its loader
        if loop is None:
            return None
        found |= _widen_one(loop, n, module, options)
    return frozenset(found) if count else None


def recount(parsed: ParsedCell, n: int, paths: frozenset[str]) -> bool:
    """Let a text that hands a loader to a function count its batches as that function does.

    Returns:
        Whether the text does count them, by `len(loader)` or a loop of its own.

    """
    module = engine_name(parsed.tree)
    found = {id(node): _windowed(node, n, module, None) for node in _same(parsed.tree, set(paths))}
    _Replace(found).visit(parsed.tree)
    _forget()
    return bool(found)


def handed(paths: frozenset[str], definition: ast.stmt, caller: ParsedCell, path: str) -> frozenset[str]:
    """Return what the loaders of a function are called in a text that calls it as `path`."""
    named = {*_parameters(definition, path)}
    found = {p for p in paths if root(p) not in named}  # a global of both
    for call in (c for c in calls(caller.tree) if path_of(c.func) == path):
        given = bound_arguments(call, definition, path)
        found |= {p for name, value in given.items() if name in paths and (p := path_of(value)) is not None}
    return frozenset(found)


def bound_arguments(call: ast.Call, definition: ast.stmt, path: str) -> dict[str, ast.expr]:
    """Return what a call gives a function, by parameter."""
    by_position = dict(zip(_parameters(definition, path), call.args, strict=False))
    return by_position | {k.arg: k.value for k in call.keywords if k.arg}


def _parameters(definition: ast.stmt, path: str) -> list[str]:
    assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef)  # noqa: S101 - for the type checker
    names = [a.arg for a in (*definition.args.posonlyargs, *definition.args.args)]
    is_method = "." in path or definition.name == "__init__"
    return [*names[is_method:], *(a.arg for a in definition.args.kwonlyargs)]


def is_backward(node: ast.AST) -> bool:
    """Tell whether a node is the statement that back-propagates."""
    return isinstance(node, ast.stmt) and backward_call(node) is not None


def is_mention(path: str, node: ast.AST) -> bool:
    """Tell whether a node names a function by a path."""
    return isinstance(node, ast.expr) and path_of(node) == path


def _around(
    node: ast.AST, is_step: Callable[[ast.AST], bool], loops: tuple[_Loop, ...], scope: ast.AST
) -> Iterator[_Loop | None]:
    """Yield for each step the loop that binds its batch, innermost first; None where there is none."""
    if is_step(node):
        yield next((loop for loop in reversed(loops) if binds_data(loop.target, loop.iter)), _taken(scope))
        return
    if is_function(node):
        scope = node
    if isinstance(node, ast.For | ast.AsyncFor):
        loops = (*loops, _Loop(node.target, node.iter, scope))
    for generator in getattr(node, "generators", ()):
        loops = (*loops, _Loop(generator.target, generator.iter, scope))
    for child in ast.iter_child_nodes(node):
        yield from _around(child, is_step, loops, scope)


def _taken(scope: ast.AST) -> _Loop | None:
    """Return where a step takes its batch from an iterator by `next`."""
    taken = next((c for c in calls(scope) if last_name(c.func) == "next" and c.args), None)
    return None if taken is None else _Loop(ast.Name(id="_", ctx=ast.Store()), taken.args[0], scope)


def _widen_one(loop: _Loop, n: int, module: str, options: PlanOptions) -> set[str]:
    sources = _sources(loop)
    wrapped = {id(s): _windowed(s, n, module, _dims(t, options)) for t, s in sources if not _is_window(s)}
    paths = {p for _, s in sources if (p := path_of(s)) is not None}
    same = {id(node): _windowed(node, n, module, None) for node in _same(loop.scope, paths)}
    _Replace({**same, **wrapped}).visit(loop.scope)
    _forget()
    return paths


def _is_window(node: ast.expr) -> bool:
    """Whether another step of the same loop has widened a loader already."""
    return isinstance(node, ast.Call) and last_name(node.func) == "window"


def _sources(loop: _Loop) -> list[tuple[ast.expr, ast.expr]]:
    """Return what yields the batches, each with what they are bound to: several loaders of a `zip`."""
    source, item = _peeled(loop.iter, loop.scope), _item(loop.target, loop.iter)
    is_zip = isinstance(source, ast.Call) and last_name(source.func) == "zip"
    if not is_zip or any(isinstance(a, ast.Starred) for a in source.args):  # type: ignore[attr-defined]
        return [(item, source)]
    args: list[ast.expr] = source.args  # type: ignore[attr-defined]
    targets = item.elts if isinstance(item, ast.Tuple) and len(item.elts) == len(args) else [item] * len(args)
    return [(t, _peeled(a, loop.scope)) for t, a in zip(targets, args, strict=True) if binds_data(t, a)]


def _peeled(node: ast.expr, scope: ast.AST) -> ast.expr:
    """Return the loader behind `enumerate(tqdm(loader))`, also where the wrapper has been given a name before."""
    seen: list[ast.expr] = []  # `loader = tqdm(loader)` names itself
    while True:
        match node:
            case ast.Call(func=func, args=[first, *_]) if last_name(func) in _HANDS_ON:
                node = first
            case ast.Name(id=name):
                made = _wrappers(scope).get(name)
                if made is None or made in seen:
                    return node
                seen.append(made)
                node = made
            case _:
                return node


@lru_cache(maxsize=64)
def _wrappers(scope: ast.AST) -> dict[str, ast.Call]:
    """Return `tqdm(loader)` for the `bar` of `bar = tqdm(loader)` or `with tqdm(loader) as bar`, by that name."""
    found: dict[str, ast.Call] = {}
    for node in nodes(scope):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as value):
                pass
            case ast.withitem(context_expr=ast.Call() as value, optional_vars=ast.Name(id=name)):
                pass
            case _:
                continue
        if last_name(value.func) in _HANDS_ON and value.args:
            found.setdefault(name, value)
    return found


def _item(target: ast.expr, source: ast.expr) -> ast.expr:
    """Return the part of a loop's target that a batch is bound to: `(x, y)` of `for i, (x, y) in enumerate(loader)`."""
    is_numbered = isinstance(source, ast.Call) and last_name(source.func) == "enumerate"
    return target.elts[1] if is_numbered and isinstance(target, ast.Tuple) else target


def _same(scope: ast.AST, paths: set[str]) -> Iterator[ast.expr]:
    """Yield where the loader is iterated or counted: `len(loader)`, `iter(loader)`, another loop over it."""
    for node in nodes(scope):
        match node:
            case ast.Call(func=ast.Name(id="len" | "iter"), args=[argument]):
                candidate = argument
            case ast.For(iter=argument) | ast.comprehension(iter=argument):
                candidate = _peeled(argument, scope)
            case _:
                continue
        if path_of(candidate) in paths:
            yield candidate


def _dims(target: ast.expr | None, options: PlanOptions) -> ast.expr | None:
    """Return the batch dimensions of a loader's values, in the order of the loop's targets; None where all are 0."""
    given = dict(options.dims)
    elements = target.elts if isinstance(target, ast.Tuple) else [target]
    dims = [given.get(e.id, 0) if isinstance(e, ast.Name) else 0 for e in elements]
    if not any(dims):
        return None
    constants: list[ast.expr] = [ast.Constant(d) for d in dims]
    return ast.Tuple(elts=constants, ctx=ast.Load()) if isinstance(target, ast.Tuple) else constants[0]


def _forget() -> None:
    forget_nodes()
    _wrappers.cache_clear()


def _windowed(node: ast.expr, n: int, module: str, dims: ast.expr | None) -> ast.expr:
    function = ast.Attribute(value=ast.Name(id=module, ctx=ast.Load()), attr="window", ctx=ast.Load())
    keywords = [] if dims is None else [ast.keyword(arg="dims", value=dims)]
    return placed_at(ast.Call(func=function, args=[node, ast.Constant(n)], keywords=keywords), node)


class _Replace(ast.NodeTransformer):
    """Puts nodes in the place of others; what is put in is not looked into."""

    def __init__(self, by_id: dict[int, ast.expr]) -> None:
        self.by_id = by_id

    def visit(self, node: ast.AST) -> ast.AST:
        made = self.by_id.get(id(node))
        return self.generic_visit(node) if made is None else made


def no_loader(line: int, n: int) -> Refusal:
    """Say that a step takes its batch without a loader."""
    return Refusal(
        f"line {line}: --window puts {n} batches of a loader together, and this step has no loader: it takes its batch "
        f"by itself. Make that batch {n} times larger where it is taken, and write `%%accumulate {n}` without --window."
    )

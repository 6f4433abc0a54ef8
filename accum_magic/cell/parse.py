"""Cell text → `ParsedCell`: the tree, and where in it a loss is back-propagated."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from accum_magic.cell.effects import path_of
from accum_magic.cell.recognise import BackwardCall, backward_call, nodes
from accum_magic.errors import Refusal

_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Place:
    """One statement list of the tree on the way from the module down to a statement."""

    owner: ast.AST
    field: str  # the list's name in its owner: "body", "orelse", "finalbody"
    index: int  # which statement of the list lies on the way

    @property
    def body(self) -> list[ast.stmt]:
        """The list itself."""
        return getattr(self.owner, self.field)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Backward:
    """A backward call and the statement lists around it, outermost first."""

    call: BackwardCall
    places: tuple[Place, ...]

    @property
    def branches(self) -> tuple[tuple[ast.AST, str], ...]:
        """The branches of `if`s around it, outermost first."""
        return tuple((p.owner, p.field) for p in self.places if isinstance(p.owner, ast.If))

    @property
    def block_depth(self) -> int:
        """Index in `places` of the body that holds the whole step: of the innermost loop, function, `try` or `case`."""
        stops = (
            *_LOOPS, *_FUNCTIONS, ast.Module, ast.ClassDef, ast.Try, ast.TryStar, ast.ExceptHandler, ast.match_case,
            ast.AsyncWith,
        )  # fmt: skip
        return max(i for i, place in enumerate(self.places) if isinstance(place.owner, stops))


@dataclass(frozen=True, slots=True)
class ParsedCell:
    """A cell's text and tree, with its backward calls in source order."""

    text: str
    tree: ast.Module
    backwards: tuple[Backward, ...]
    named: tuple[str, ...]  # names given to losses that had none

    def line(self, number: int) -> str:
        """Return one line of the cell, 1-based, without its indentation."""
        return self.text.splitlines()[number - 1].strip()


def parse(text: str) -> ParsedCell:
    """Parse a cell.

    Raises:
        SyntaxError: The cell is no Python; the error is Python's own.
        Refusal: The cell is empty.

    """
    refuse_cell_magic(text)
    tree = compile(text, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if not tree.body:
        message = "the cell is empty. Write the training cell below the `%%accumulate` line."
        raise Refusal(message)
    return parsed_tree(text, tree)


def parsed_tree(text: str, tree: ast.Module) -> ParsedCell:
    """Return a tree with its backward calls; losses without a name are given one in it."""
    naming = _NameLosses(tree)
    naming.visit(tree)
    return ParsedCell(text, tree, tuple(_backwards(tree, ())), tuple(naming.made))


class _NameLosses(ast.NodeTransformer):
    """Gives a loss that is computed and back-propagated in one statement a statement of its own.

    `criterion(model(x), y).backward()` becomes `loss = criterion(model(x), y)` and `loss.backward()`; several losses
    in one call of `torch.autograd.backward` become a call each.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.made: list[str] = []

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Look for statements only."""
        return node if isinstance(node, ast.expr) else super().generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | list[ast.stmt]:
        several = _one_by_one(node)
        if several:
            visited = [self.visit_Expr(one) for one in several]
            return [s for part in visited for s in (part if isinstance(part, list) else [part])]
        call = backward_call(node)
        if call is None or not _computes(call.loss):
            return node
        if isinstance(call.loss, ast.NamedExpr):
            name, value = call.loss.target.id, call.loss.value
        else:
            name, value = self._fresh(), call.loss
        target = ast.copy_location(ast.Name(id=name, ctx=ast.Store()), call.loss)
        replace_child(call.call, call.loss, ast.copy_location(ast.Name(id=name, ctx=ast.Load()), call.loss))
        return [ast.copy_location(ast.Assign(targets=[target], value=value), node), node]

    def _fresh(self) -> str:
        used = {n.id for n in ast.walk(self.tree) if isinstance(n, ast.Name)} | {*self.made}
        candidates = ("loss", *(f"loss_{i}" for i in range(2, len(used) + 3)))
        name = next(c for c in candidates if c not in used)
        self.made.append(name)
        return name


def _one_by_one(node: ast.Expr) -> list[ast.Expr]:
    """Take `torch.autograd.backward([l1, l2])` apart: all but the last keep the graph for those behind them."""
    call = node.value
    if not (isinstance(call, ast.Call) and path_of(call.func) == "torch.autograd.backward"):
        return []
    given = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "tensors"), None)
    rest = [k for k in call.keywords if k.arg != "tensors"]
    if not isinstance(given, ast.List | ast.Tuple) or any(isinstance(e, ast.Starred) for e in given.elts):
        return []
    kept = [k for k in rest if k.arg != "retain_graph"]
    keep = ast.copy_location(
        ast.keyword(arg="retain_graph", value=ast.copy_location(ast.Constant(value=True), call)), call
    )
    ends = [[*kept, keep]] * (len(given.elts) - 1) + [rest]
    parts = zip(given.elts, ends, strict=True)
    made = [ast.Call(func=call.func, args=[loss, *call.args[1:]], keywords=list(ks)) for loss, ks in parts]
    return [ast.copy_location(ast.Expr(value=ast.copy_location(c, call)), node) for c in made]


def _computes(loss: ast.expr) -> bool:
    """Whether an expression calls something on what another call returns, as `criterion(model(x), y)` does."""
    if isinstance(loss, ast.NamedExpr):
        return True
    if not isinstance(loss, ast.Call):
        return isinstance(loss, ast.BinOp) and any(isinstance(n, ast.Call) for n in ast.walk(loss))
    return any(isinstance(n, ast.Call) and n is not loss for n in ast.walk(loss))


def replace_child(parent: ast.Call, old: ast.expr, new: ast.expr) -> None:
    """Put an expression in the place of the callee's owner or of an argument."""
    if isinstance(parent.func, ast.Attribute) and parent.func.value is old:
        parent.func.value = new
    parent.args = [new if a is old else a for a in parent.args]


def refuse_cell_magic(text: str) -> None:
    """Refuse a cell magic below `%%accumulate`."""
    lines = text.splitlines()
    number, first = next(((i, s.strip()) for i, s in enumerate(lines, 1) if s.strip()), (1, ""))
    if first.startswith("%%"):
        name = first.split()[0]
        message = (
            f"line {number}: `{name}` stands below `%%accumulate`. Put it above: the cell's first line `{first}`, then "
            "`%%accumulate`."
        )
        raise Refusal(message)


def _backwards(owner: ast.AST, places: tuple[Place, ...]) -> Iterator[Backward]:
    for field, body in _statement_lists(owner):
        for index, statement in enumerate(body):
            here = (*places, Place(owner, field, index))
            call = backward_call(statement)
            if call is not None:
                yield Backward(call, here)
            yield from _backwards(statement, here)
    for child in [*getattr(owner, "handlers", ()), *getattr(owner, "cases", ())]:
        yield from _backwards(child, places)


def _statement_lists(owner: ast.AST) -> Iterator[tuple[str, Sequence[ast.stmt]]]:
    for field in ("body", "orelse", "finalbody"):
        body = getattr(owner, field, None)
        if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
            yield field, body


def enclosing_function(places: Sequence[Place]) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """Return the innermost function around a place, None at module level."""
    return next((p.owner for p in reversed(places) if isinstance(p.owner, _FUNCTIONS)), None)


def enclosing_loops(places: Sequence[Place]) -> list[ast.For | ast.AsyncFor]:
    """Return the `for` loops around a place, innermost first, those around an enclosing function included."""
    loops = [p.owner for p in reversed(places) if isinstance(p.owner, ast.For | ast.AsyncFor) and p.field == "body"]
    return loops  # noqa: RET504 - names what is returned


def local_names(places: Sequence[Place]) -> frozenset[str]:
    """Return the names that are bound around a place: parameters and locals of functions, targets of loops."""
    found: set[str] = set()
    for place in places:
        if isinstance(place.owner, _FUNCTIONS):
            inner = nodes(place.owner)
            outside = {n for node in inner if isinstance(node, ast.Global | ast.Nonlocal) for n in node.names}
            found |= {n.arg for n in inner if isinstance(n, ast.arg)}
            found |= {n.id for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} - outside
        elif isinstance(place.owner, ast.For | ast.AsyncFor):
            found |= {n.id for n in ast.walk(place.owner.target) if isinstance(n, ast.Name)}
    return frozenset(found)


def own_names(places: Sequence[Place]) -> frozenset[str]:
    """Return the names that a list of statements binds itself, or that a loop around it binds."""
    around = [place.owner.target for place in places if isinstance(place.owner, ast.For | ast.AsyncFor)]
    inside = [n for part in [*around, *places[-1].body] for n in nodes(part)]
    return frozenset(n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def is_loop(node: ast.AST) -> bool:
    """Tell whether a node is a loop."""
    return isinstance(node, _LOOPS)


def is_function(node: ast.AST) -> bool:
    """Tell whether a node is a function definition."""
    return isinstance(node, _FUNCTIONS)

"""What a statement reads, binds and changes in place, by access path.

A path is a name or a chain of attributes on one (`x`, `self.model`). Two paths overlap where one
is a prefix of the other: a change of `self` is a change of `self.model`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

_MUTATING_METHODS = frozenset(
    {
        "add", "append", "clear", "discard", "extend", "insert", "load_state_dict", "pop", "popitem", "remove",
        "reverse", "setdefault", "sort", "update", "eval", "train", "requires_grad_",
    }
)  # fmt: skip
_READ_ONLY_CALLS = frozenset({"print", "display", "len", "repr", "str", "isinstance"})

_LIBRARIES = frozenset({"torch", "nn", "init", "utils", "F"})
_CLIPS = frozenset({"clip_grad_norm_", "clip_grad_value_"})  # `accelerator.clip_grad_norm_(model.parameters(), 1)`


@dataclass(frozen=True, slots=True)
class Effects:
    """Paths a statement touches. `reads` are upward exposed: values that come from before it."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    mutates: frozenset[str] = frozenset()
    kills: frozenset[str] = frozenset()  # bound on every path through the statement
    deletes: frozenset[str] = frozenset()
    hands_over: frozenset[str] = frozenset()  # names given to a call whose value nobody takes: it may change them

    @property
    def changes(self) -> frozenset[str]:
        """Everything that is different afterwards, whether rebound or changed in place."""
        return self.writes | self.mutates


def root(path: str) -> str:
    """Return the name a path starts from: `self.model` → `self`."""
    return path.partition(".")[0]


def overlaps(path: str, others: Iterable[str]) -> bool:
    """Tell whether a change of one of `others` can be seen through `path`."""
    return any(path == o or path.startswith(o + ".") or o.startswith(path + ".") for o in others)


def overlap(left: Iterable[str], right: Iterable[str]) -> str | None:
    """Return the first path of `left` that overlaps with `right`, in alphabetical order."""
    others = tuple(right)
    return next((path for path in sorted(left) if overlaps(path, others)), None)


def path_of(node: ast.expr) -> str | None:
    """Return the access path of a name or attribute chain, None for any other expression."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            base = path_of(value)
            return None if base is None else f"{base}.{attr}"
        case _:
            return None


def base_path(node: ast.expr) -> str | None:
    """Return the path an expression is taken from: `x.y[0].f()` → `x.y`; None where there is none."""
    while True:
        path = path_of(node)
        if path is not None:
            return path
        match node:
            case ast.Subscript(value=value) | ast.Starred(value=value) | ast.Await(value=value):
                node = value
            case ast.Attribute(value=value):
                node = value
            case ast.Call(func=ast.Attribute(value=value)):
                node = value
            case _:
                return None


@lru_cache(maxsize=4096)
def expression_effects(node: ast.AST | None) -> Effects:
    """Return the effects of one expression."""
    if node is None:
        return Effects()
    visitor = _Collector()
    visitor.visit(node)
    return visitor.effects()


def sequence_effects(body: Sequence[ast.stmt]) -> Effects:
    """Return the effects of statements one after the other."""
    return _in_order([statement_effects(s) for s in body])


@lru_cache(maxsize=4096)
def statement_effects(node: ast.stmt) -> Effects:
    """Return the effects of one statement, compound statements included."""
    match node:
        case ast.If(test=test, body=body, orelse=orelse):
            return _in_order([expression_effects(test), _either(sequence_effects(body), sequence_effects(orelse))])
        case ast.For() | ast.AsyncFor():
            return _for_effects(node)
        case ast.While(test=test, body=body, orelse=orelse):
            head = expression_effects(test)
            return _in_order([head, _maybe(sequence_effects(body)), _maybe(sequence_effects(orelse))])
        case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
            return _in_order([*map(_with_item_effects, items), sequence_effects(body)])
        case ast.Try() | ast.TryStar():
            return _try_effects(node)
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return _definition_effects(node)
        case ast.Match(subject=subject, cases=cases):
            arms = [_maybe(_in_order([expression_effects(c.pattern), sequence_effects(c.body)])) for c in cases]
            return _in_order([expression_effects(subject), *arms])
        case _:
            return _simple_effects(node)


def bound_names(target: ast.AST) -> frozenset[str]:
    """Return the plain names that an assignment target binds."""
    return frozenset(n.id for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _in_order(parts: Sequence[Effects]) -> Effects:
    reads: set[str] = set()
    kills: set[str] = set()
    for part in parts:
        reads |= {path for path in part.reads if root(path) not in kills}
        kills |= part.kills
        kills -= part.deletes
    return Effects(
        frozenset(reads),
        frozenset().union(*(p.writes for p in parts)),
        frozenset().union(*(p.mutates for p in parts)),
        frozenset(kills),
        frozenset().union(*(p.deletes for p in parts)),
        frozenset().union(*(p.hands_over for p in parts)),
    )


def _either(left: Effects, right: Effects) -> Effects:
    return replace(_in_order([_maybe(left), _maybe(right)]), kills=left.kills & right.kills)


def _maybe(effects: Effects) -> Effects:
    return replace(effects, kills=frozenset())


def _for_effects(node: ast.For | ast.AsyncFor) -> Effects:
    head, targets = expression_effects(node.iter), bound_names(node.target)
    body = sequence_effects(node.body)
    body = replace(body, reads=frozenset(p for p in body.reads if root(p) not in targets))
    mutates = body.mutates
    if any(root(path) in targets for path in body.changes - targets) or targets & body.mutates:
        mutates |= head.reads  # `for p in model.parameters(): p.grad = None` changes the model
    target = Effects(writes=targets, reads=expression_effects(node.target).reads)
    return _in_order([head, target, _maybe(replace(body, mutates=mutates)), _maybe(sequence_effects(node.orelse))])


def _with_item_effects(item: ast.withitem) -> Effects:
    names = frozenset() if item.optional_vars is None else bound_names(item.optional_vars)
    return _in_order([expression_effects(item.context_expr), Effects(writes=names, kills=names)])


def _try_effects(node: ast.Try | ast.TryStar) -> Effects:
    handlers = [sequence_effects(h.body) for h in node.handlers]
    parts = [sequence_effects(node.body), *handlers, sequence_effects(node.orelse)]
    return _in_order([*map(_maybe, parts), sequence_effects(node.finalbody)])


def _definition_effects(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Effects:
    inner = _Collector()
    for child in ast.iter_child_nodes(node):
        inner.visit(child)
    local = {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)} | inner.written
    reads = frozenset(p for p in inner.read if root(p) not in local)
    return Effects(reads=reads, writes=frozenset({node.name}), kills=frozenset({node.name}))


def _simple_effects(node: ast.stmt) -> Effects:
    visitor = _Collector()
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        visitor.visit_statement_call(node.value)
    else:
        visitor.visit(node)
    effects = visitor.effects()
    if isinstance(node, ast.AugAssign):
        path = path_of(node.target)
        if path is not None:
            effects = replace(effects, reads=effects.reads | {path})
    return effects


class _Collector(ast.NodeVisitor):
    """Collects the paths of one expression or simple statement; comprehensions and lambdas keep their own names."""

    def __init__(self) -> None:
        self.read: set[str] = set()
        self.written: set[str] = set()
        self.mutated: set[str] = set()
        self.deleted: set[str] = set()
        self.handed_over: set[str] = set()

    def effects(self) -> Effects:
        plain = frozenset(p for p in self.written if "." not in p)
        return Effects(
            frozenset(self.read),
            frozenset(self.written),
            frozenset(self.mutated),
            plain - self.deleted,
            frozenset(self.deleted),
            frozenset(self.handed_over),
        )

    def visit_statement_call(self, node: ast.Call) -> None:
        """A call whose value nobody takes is made for its effect on the object before the dot."""
        self.visit(node)
        if isinstance(node.func, ast.Attribute):
            self._mutate(node.func.value)
        elif path_of(node.func) not in _READ_ONLY_CALLS:
            self.handed_over |= {p for a in node.args if (p := path_of(a)) is not None}

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.read.add(node.id)
        else:
            self.written.add(node.id)
            if isinstance(node.ctx, ast.Del):
                self.deleted.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = path_of(node)
        if path is None:
            self.visit(node.value)
        elif isinstance(node.ctx, ast.Load):
            self.read.add(path)
        else:
            self.read.add(root(path))
            self.written.add(path)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._mutate(node.value)
        self.visit(node.value)
        self.visit(node.slice)

    def visit_Call(self, node: ast.Call) -> None:
        match node.func:
            case ast.Attribute(value=value, attr=attr):
                self.visit(value)
                if attr in _MUTATING_METHODS or _is_in_place(attr):
                    self._mutate(value)
            case func:
                self.visit(func)
        if _changes_arguments(node.func):
            for argument in node.args:
                self._mutate(argument)
        for argument in [*node.args, *(k.value for k in node.keywords)]:
            self.visit(argument)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.target)
        self.visit(node.value)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        inner = expression_effects(node.body)
        own = {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
        self.read |= {p for p in inner.reads if root(p) not in own}

    def _visit_comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        inner = _Collector()
        for child in ast.iter_child_nodes(node):
            inner.visit(child)
        own = frozenset().union(*(bound_names(g.target) for g in node.generators))
        self.read |= {p for p in inner.read if root(p) not in own}
        self.written |= inner.written - own
        self.mutated |= {p for p in inner.mutated if root(p) not in own}

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _visit_comprehension  # noqa: N815

    def visit_alias(self, node: ast.alias) -> None:
        self.written.add((node.asname or node.name).partition(".")[0])

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        inner = _definition_effects(node)
        self.read |= inner.reads
        self.written |= inner.writes

    visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef  # type: ignore[assignment]  # noqa: N815

    def _mutate(self, node: ast.expr) -> None:
        base = base_path(node)
        if base is not None:
            self.mutated.add(base)


def _changes_arguments(func: ast.expr) -> bool:
    """Whether a call changes what it is given: `nn.init.zeros_(w)` does; `x.scatter_(1, y, 1)` changes `x` only."""
    callee = path_of(func) or ""
    if callee in {"next", "setattr", "delattr"}:
        return True
    is_function = isinstance(func, ast.Name) or root(callee) in _LIBRARIES or callee.rpartition(".")[2] in _CLIPS
    return is_function and _is_in_place(callee)


def _is_in_place(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last.endswith("_") and not last.endswith("__")

"""Which loops of a rewritten text have an update in them: one of their own, or a call of what trains."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from accum_magic.cell.effects import path_of
from accum_magic.cell.mentions import made_by, read_by
from accum_magic.cell.recognise import calls, last_name, nodes

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Loop: TypeAlias = ast.For | ast.AsyncFor | ast.While
_HAND_ON = frozenset({"partial", "compile"})  # what they return trains when it is called


def training_loops(
    tree: ast.Module, step: str, known: Mapping[str, bool], generated: frozenset[str]
) -> frozenset[Loop]:
    """Return the loops whose body runs an update.

    `step` is the path of the engine's; `known` holds the paths of what trains elsewhere, each with whether it is a
    generator, which trains while it is iterated. Functions and methods that the text defines itself are found here;
    `generated` are no user's.
    """
    inner = nodes(tree)
    if not any(isinstance(n, Loop) for n in inner):
        return frozenset()
    defines = any(isinstance(n, Function | ast.ClassDef) and n.name not in generated for n in inner)
    text = _Text(tree, step, has_calls=bool(known) or defines)
    known = text.all_known({step: False, **known})
    found = [s for s in text.seen if s.path in known]
    inside = {loop for s in found for loop in s.where.loops}
    return frozenset(inside | {s.head for s in found if s.head is not None and known[s.path]})


@dataclass(frozen=True, slots=True)
class _Where:
    """Where a name is read: in which loops of its function, in which function, in a method of which class."""

    loops: tuple[Loop, ...] = ()
    function: Function | None = None
    kind: str = ""
    itself: str = ""


@dataclass(frozen=True, slots=True)
class _Seen:
    path: str
    where: _Where
    head: ast.For | ast.AsyncFor | None  # the loop that iterates over what is read


class _Text:
    """What a text reads where, and what it binds anew to functions."""

    def __init__(self, tree: ast.Module, step: str, *, has_calls: bool) -> None:
        self.step, self.has_calls = step, has_calls
        self.seen: list[_Seen] = []
        self.aliases: list[tuple[str, str, bool]] = []  # name, path, whether it is called
        self.functions: dict[str, Function] = {}
        self.methods: dict[Function, str] = {}
        self.classes: dict[str, set[str]] = {}  # each with what it inherits from
        self._visit(tree, _Where())
        self.calls = calls(tree)
        self._made = made_by(tree) if self.classes else {}

    def all_known(self, known: Mapping[str, bool]) -> Mapping[str, bool]:
        """Add the text's own functions that train, directly or through others."""
        while True:
            aliases = [*self.aliases, *self._arguments(known)]
            found = {name: known[p] for name, p, called in aliases if p in known and (known[p] or not called)}
            for function in {s.where.function for s in self.seen if s.path in known}:
                if function is not None:
                    found |= dict.fromkeys(self._names_of(function), _is_generator(function))
            if found.keys() <= known.keys():
                return known
            known = {**found, **known}

    def _names_of(self, function: Function) -> Iterator[str]:
        """Yield the paths by which the text may call a function of its own."""
        if function not in self.methods:
            yield function.name
            return
        kind = self.methods[function]
        if function.name == "__init__":
            yield kind
        heirs = {name for name, bases in self.classes.items() if kind in bases}
        kinds = {kind, *heirs, *self.classes[kind]}
        for owner in (*kinds, *(name for name, made in self._made.items() if made in kinds)):
            yield f"{owner}.{function.name}"
            if function.name in {"__call__", "forward"} and owner not in kinds:
                yield owner

    def _arguments(self, known: Mapping[str, bool]) -> Iterator[tuple[str, str, bool]]:
        """Yield what the text's functions know of what they are given that trains, by the names of parameters."""
        for call in self.calls if self.functions else ():
            function = self.functions.get(last_name(call.func))
            if function is not None:
                names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)][function in self.methods :]
                pairs = [*zip(names, call.args, strict=False), *((k.arg, k.value) for k in call.keywords if k.arg)]
                yield from ((n, p, False) for n, value in pairs if (p := path_of(value)) is not None and p in known)

    def _visit(self, node: ast.AST, where: _Where) -> None:
        inner, rest = where, list[ast.AST]()  # the rest stands around the node
        match node:
            case ast.expr():
                self._read(node, where)
                return
            case ast.Expr(value=ast.Call(func=func)) | ast.Assign(value=ast.Call(func=func)) if self._is_step(func):
                self.seen.append(_Seen(self.step, where, None))
                return
            case ast.ClassDef():
                self._visit_class(node, where)
                return
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.functions[node.name] = node
                inner, rest = replace(where, loops=(), function=node), [*node.decorator_list, node.args]
            case ast.For() | ast.AsyncFor():
                self._read(node.iter, where, node)
                inner, rest = replace(where, loops=(*where.loops, node)), [*node.orelse]
            case ast.While():
                inner, rest = replace(where, loops=(*where.loops, node)), [*node.orelse]
            case ast.Assign():
                self._note_alias(node)
        for child in ast.iter_child_nodes(node):
            if child is not getattr(node, "iter", None):  # it is read above
                self._visit(child, where if child in rest else inner)

    def _visit_class(self, node: ast.ClassDef, where: _Where) -> None:
        """The body of a class runs where it stands, its methods do not."""
        self.classes[node.name] = {path for base in node.bases if (path := path_of(base)) is not None}
        for child in node.body:
            inner = where
            if isinstance(child, Function):
                self.methods[child] = node.name
                arguments = [*child.args.posonlyargs, *child.args.args]
                inner = replace(where, kind=node.name, itself=arguments[0].arg if arguments else "")
            self._visit(child, inner)

    def _is_step(self, callee: ast.expr) -> bool:
        return isinstance(callee, ast.Attribute) and path_of(callee) == self.step

    def _read(self, node: ast.expr, where: _Where, head: ast.For | ast.AsyncFor | None = None) -> None:
        if not self.has_calls:
            return
        paths = [m.path for m in read_by(node)]
        for path in paths:
            first, dot, rest = path.partition(".")
            own = f"{where.kind}.{rest}" if dot and first == where.itself else path
            self.seen += [_Seen(p, where, head) for p in dict.fromkeys((path, own))]
        if head is not None and paths:
            called = {path_of(c.func) for c in calls(node)}
            targets = [n.id for n in nodes(head.target) if isinstance(n, ast.Name)]
            self.aliases += [(name, p, False) for name in targets for p in paths if p not in called]

    def _note_alias(self, node: ast.Assign) -> None:
        names = [t.id for t in node.targets if isinstance(t, ast.Name)]
        found = list(_handed_on(node.value)) if names else []
        self.aliases += [(name, path, called) for name in names for path, called in found]


def _handed_on(node: ast.expr) -> Iterator[tuple[str, bool]]:
    """Yield the paths of functions that a value holds; of one that is called, as a generator is, with True."""
    path = path_of(node)
    if path is not None:
        yield path, False
    match node:
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Dict(values=parts):
            yield from (found for part in parts for found in _handed_on(part))
        case ast.Call(func=func, args=[first, *_]) if last_name(func) in _HAND_ON:
            yield from _handed_on(first)
        case ast.Call(func=func) if path_of(func) is not None:
            yield path_of(func) or "", True
        case ast.Lambda(body=body):
            yield from ((m.path, False) for m in read_by(body))


def _is_generator(function: Function) -> bool:
    return any(isinstance(n, ast.Yield | ast.YieldFrom) for n in nodes(function))

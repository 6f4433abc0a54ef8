"""What the functions, classes and objects that a cell itself defines use: read off its tree, as nothing has run yet."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterator, Sequence

from accum_magic.cell.effects import bound_names, path_of, root
from accum_magic.cell.mentions import mentions
from accum_magic.cell.namespace import Lookup, NameFact
from accum_magic.cell.parse import Place, is_function
from accum_magic.cell.recognise import calls, is_transparent, last_name, nodes

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Uses = Callable[[str], bool | None]

_BUILTINS = frozenset(dir(builtins))
_BUILDS_GRAPHS = frozenset({"requires_grad_", "Parameter", "backward", "grad"})
_PACKAGES = frozenset({"torch", "numpy", "math", "random", "einops", "torchvision", "PIL", "scipy", "functools"})


def uses_nothing_known(_path: str) -> bool | None:
    """Tell of no name whether it uses a module."""
    return None


class Definitions:
    """Names that the scopes around a step bind, and whether what they stand for uses a module or a trainable tensor.

    As in `NameFact`: None where nobody can say. A name that a scope binds several times stands for all of it.
    """

    def __init__(self, tree: ast.Module, places: Sequence[Place], lookup: Lookup) -> None:
        self.namespace = lookup
        owners = [tree, *(p.owner for p in places if is_function(p.owner))]
        self.scopes = [_bindings(owner) for owner in dict.fromkeys(owners)]
        self.asked: set[tuple[str, int]] = set()  # what is being answered: a recursive function adds nothing
        self.answers: dict[tuple[str, int], bool | None] = {}

    def lookup(self, beyond: Lookup) -> Lookup:
        """Look up functions of the cell, and methods of its objects; all other paths as `beyond` does."""

        def known(path: str) -> NameFact | None:
            binders = self._binders(path, len(self.scopes))
            name, _, method = path.partition(".")
            if binders is None:
                return beyond(path)
            if not method and all(isinstance(b, Function | ast.ClassDef) for b in binders[0]):
                return NameFact("function", reaches=self.uses(name))
            if method and "." not in method and all(isinstance(b, ast.Call | ast.ClassDef) for b in binders[0]):
                found = _worst(self._of_method(b, method, binders[1]) for b in binders[0])
                return NameFact("function", reaches=False) if found is False else beyond(path)
            return beyond(path)

        return known

    def uses(self, path: str, depth: int | None = None) -> bool | None:
        """Tell whether what a path stands for uses a module or a trainable tensor."""
        found = self._binders(path, len(self.scopes) if depth is None else depth)
        if found is None:
            return self._of_outside(path)
        key = (root(path), found[1])
        if key in self.asked:
            return False
        if (path, found[1]) not in self.answers:
            self.asked.add(key)
            verdict = _worst(self._of_binder(b, path, found[1]) for b in found[0])
            self.asked.discard(key)
            if self.asked:
                return verdict  # an answer inside a circle may leave a part of it out
            self.answers[path, found[1]] = verdict
        return self.answers[path, found[1]]

    def _binders(self, path: str, depth: int) -> tuple[list[ast.AST | None], int] | None:
        """Return what binds the first name of a path, and how many scopes that sees."""
        for count in range(depth, 0, -1):
            if root(path) in self.scopes[count - 1]:
                return self.scopes[count - 1][root(path)], count
        return None

    def _of_outside(self, path: str) -> bool | None:
        """What the notebook's namespace says of the longest part of a path that it knows."""
        whole = path
        while path:
            fact = self.namespace(path)
            if fact is not None:
                return fact.reaches
            path = path.rpartition(".")[0]
        return False if root(whole) in _BUILTINS or is_transparent(whole) else None

    def _of_binder(self, binder: ast.AST | None, path: str, depth: int) -> bool | None:
        match binder:
            case None:
                return None
            case ast.ImportFrom(module=module):
                is_layers = any((a.asname or a.name) == "nn" for a in binder.names)
                is_known = root(module or "") in _PACKAGES and not is_layers
                return False if is_known or is_transparent(path) else None
            case ast.Import():
                return None if path.startswith(("nn.", "torch.nn.")) and not is_transparent(path) else False
            case ast.ClassDef():
                return self._of_class(binder, depth)
            case _:
                return self._of_text(binder, depth)

    def _of_text(self, node: ast.AST, depth: int) -> bool | None:
        """What a function's body or an expression uses that it does not bind itself."""
        asked = [k.arg for c in calls(node) for k in c.keywords]
        if "requires_grad" in asked or any(last_name(c.func) in _BUILDS_GRAPHS for c in calls(node)):
            return None
        own = _own_names(node)
        return _worst(self.uses(m.path, depth) for m in mentions(node) if root(m.path) not in own)

    def _of_class(self, node: ast.ClassDef, depth: int) -> bool | None:
        """What every object of a class has: from its bases, and from what its methods store in `self`."""
        assigned = [s for s in nodes(node) if isinstance(s, ast.Assign)]
        stored = [s.value for s in assigned if any(isinstance(n, ast.Attribute) for t in s.targets for n in nodes(t))]
        own = _own_names(node)
        inside = [m.path for value in (*node.bases, *stored) for m in mentions(value) if root(m.path) not in own]
        return _worst(self.uses(p, depth) for p in inside if p != "object")

    def _of_method(self, made: ast.AST | None, method: str, depth: int) -> bool | None:
        """What a method uses: its own body, its class, and what the object was made with."""
        if isinstance(made, ast.ClassDef):
            return self._of_method_in(made, method, depth)
        assert isinstance(made, ast.Call)  # noqa: S101 - for the type checker
        kind = path_of(made.func)
        given = [self._of_text(a, depth) for a in (*made.args, *(k.value for k in made.keywords))]
        if kind is None:
            return None
        binders = self._binders(kind, depth)
        if binders is None:
            facts = [self.namespace(p) for p in (kind, f"{kind}.__init__", f"{kind}.{method}")]
            return _worst([*given, *(None if f is None else f.reaches for f in facts)])
        classes = [b if isinstance(b, ast.ClassDef) else None for b in binders[0]]
        return _worst([*given, *(self._of_method_in(c, method, binders[1]) for c in classes)])

    def _of_method_in(self, kind: ast.ClassDef | None, method: str, depth: int) -> bool | None:
        """What a method of a class uses, itself or through the other methods that it calls."""
        if kind is None:
            return None
        defined = {s.name: s for s in kind.body if is_function(s)}  # type: ignore[attr-defined]
        if method not in defined:
            return None
        wanted, seen = [method], set()
        while wanted:
            name = wanted.pop()
            seen.add(name)
            named = {n.attr for n in nodes(defined[name]) if isinstance(n, ast.Attribute)}
            wanted += sorted(n for n in named & set(defined) if n not in seen)
        return _worst([self._of_class(kind, depth), *(self._of_text(defined[n], depth) for n in sorted(seen))])


def _worst(verdicts: Iterator[bool | None] | Sequence[bool | None]) -> bool | None:
    found = list(verdicts)
    return True if True in found else None if None in found else False


def _bindings(scope: ast.AST) -> dict[str, list[ast.AST | None]]:
    """Return what binds each name of a scope: a definition, an expression it is made of, None for a parameter."""
    found: dict[str, list[ast.AST | None]] = {}
    for name, binder in _bound_in(scope):
        found.setdefault(name, []).append(binder)
    if is_function(scope):
        found |= {a.arg: [None] for a in nodes(scope.args) if isinstance(a, ast.arg)}  # type: ignore[attr-defined]
    return found


def _bound_in(scope: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.expr):
            yield from ((n.target.id, n.value) for n in nodes(node) if isinstance(n, ast.NamedExpr))
            continue
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node
                continue
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from (((a.asname or a.name).partition(".")[0], node) for a in names)
            case ast.Assign(targets=targets, value=value):
                yield from ((n, value) for t in targets for n in bound_names(t))
            case (
                ast.AugAssign(target=target, value=value)
                | ast.AnnAssign(target=target, value=value)
                | ast.For(target=target, iter=value)
                | ast.AsyncFor(target=target, iter=value)
                | ast.withitem(optional_vars=ast.expr() as target, context_expr=value)
            ):
                yield from ((n, value) for n in bound_names(target))
            case ast.ExceptHandler(name=str(name)):
                yield name, None
        yield from _bound_in(node)


def _own_names(node: ast.AST) -> frozenset[str]:
    """Names that a text binds itself; of a class, those of its methods."""
    inner = nodes(node)
    outside = {n for g in inner if isinstance(g, ast.Global | ast.Nonlocal) for n in g.names}
    found = {n.arg for n in inner if isinstance(n, ast.arg)}
    found |= {n.name for n in inner if n is not node and isinstance(n, ast.FunctionDef | ast.ClassDef)}
    found |= {n.id for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return frozenset(found - outside)

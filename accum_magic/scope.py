"""What the names of a text stand for before it has run: the notebook's objects, arguments, objects yet to be made."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from accum_magic.cell.effects import path_of
from accum_magic.cell.mentions import Mention, made_by
from accum_magic.cell.parse import ParsedCell
from accum_magic.cell.recognise import calls, nodes
from accum_magic.namespace import MISSING, resolve
from accum_magic.source import source_of

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Scope:
    """A text, and the names it finds; an object that has still to be made is known by its class."""

    def __init__(
        self,
        tree: ast.Module,
        names: Mapping[str, Any],
        owner: object = MISSING,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        self.tree, self.names, self.owner, self.given = tree, names, owner, given or {}
        self.made = made_by(tree)
        inner = nodes(tree)
        arguments = [n.arg for n in inner if isinstance(n, ast.arg)]
        self.itself = arguments[0] if arguments and owner is not MISSING else None
        self.bound = {n.id for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        self.bound |= {*arguments, *(n.name for n in inner if isinstance(n, _DEFINITIONS))}
        self.loops = {n.target.id: n.iter for n in inner if isinstance(n, ast.For) and isinstance(n.target, ast.Name)}

    def value(self, mention: Mention) -> Any:
        """Return what a path stands for, MISSING where nothing tells."""
        first, _, rest = mention.path.partition(".")
        if mention.is_made:
            kind = resolve(self.names, mention.path.rpartition(".")[0])
            return resolve({first: kind}, f"{first}.{rest.rpartition('.')[2]}") if isinstance(kind, type) else MISSING
        found = self._named(first)
        value = resolve({first: found}, mention.path)
        if value is MISSING and isinstance(found, type):
            name, _, rest = rest.partition(".")
            kind = _made_attributes(found).get(name, MISSING)
            return resolve({name: kind}, f"{name}.{rest}") if rest else kind
        return value

    def arguments(self, mention: Mention, parameters: list[str]) -> dict[str, Any]:
        """Return what this text gives a function that it calls by a path, by parameter, as far as it is known."""
        given: dict[str, Any] = {}
        for call in (c for c in calls(self.tree) if path_of(c.func) == mention.path):
            pairs = [*zip(parameters, call.args, strict=False), *((k.arg, k.value) for k in call.keywords if k.arg)]
            for name, node in pairs:
                path = path_of(node)
                value = MISSING if path is None else self.value(Mention(path, mention.line))
                if value is not MISSING:
                    given.setdefault(name, value)
        return given

    def _named(self, name: str) -> Any:
        if name == self.itself:
            return self.owner
        if name in self.given:
            return self.given[name]
        if name in self.loops:
            path = path_of(self.loops[name])
            items = MISSING if path is None or path == name else self.value(Mention(path, 0))
            return items[0] if isinstance(items, list | tuple) and items else MISSING
        if name in self.bound:
            kind = resolve(self.names, self.made[name]) if name in self.made else MISSING
            return kind if isinstance(kind, type) else MISSING
        return self.names.get(name, MISSING)


def _made_attributes(kind: type) -> dict[str, type]:
    """Return the attributes that a class's `__init__` binds to objects it makes: `self.trainer = Trainer(model)`."""
    init = vars(kind).get("__init__")
    source = source_of(init) if isinstance(init, FunctionType) else None
    if not isinstance(init, FunctionType) or not isinstance(source, ParsedCell):
        return {}
    found = {}
    for node in nodes(source.tree):
        match node:
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(), attr=attr)], value=ast.Call(func=func)):
                path = path_of(func)
                made = MISSING if path is None else resolve(init.__globals__, path)
                if isinstance(made, type):
                    found[attr] = made
    return found

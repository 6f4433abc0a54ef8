"""Finds the functions that train for a cell, in the notebook and in the user's own modules."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from accum_magic.cell.mentions import Mention, mentions
from accum_magic.cell.parse import ParsedCell
from accum_magic.namespace import MISSING, resolve
from accum_magic.scope import Scope
from accum_magic.source import is_installed, source_of

_MOST_FUNCTIONS = 200  # a cell that mentions more than these looks into a whole program


@dataclass(frozen=True, slots=True)
class Followed:
    """A function of the user's that a cell calls, directly or through others."""

    function: FunctionType
    parsed: ParsedCell  # its definition alone, with the line numbers of the file or cell it stands in
    names: Mapping[str, Any]  # its globals and what it closes over
    called_in: str  # `line 3` of the cell, or `line 5 of `fit``
    path: str  # by which the caller names it
    caller: Followed | None  # None: the cell


@dataclass(frozen=True, slots=True)
class Call:
    """A function that a text names, also where it does so for the second time."""

    caller: Followed | None  # None: the cell
    path: str
    callee: Followed


@dataclass(frozen=True, slots=True)
class Following:
    """Where the calls of a cell lead."""

    visited: tuple[Followed, ...]  # all functions of the user's, in the order they are met
    calls: tuple[Call, ...]
    unreadable: str | None  # why one that trains cannot be read

    @property
    def steps(self) -> list[Followed]:
        """The functions that call `backward`."""
        return [one for one in self.visited if one.parsed.backwards]


def follow(parsed: ParsedCell, namespace: Mapping[str, Any]) -> Following:
    """Follow the calls of a cell through the functions that it finds in a namespace."""
    found: list[Call] = []
    unreadable: list[str] = []
    seen: dict[CodeType, Followed | None] = {}
    texts: deque[tuple[Scope, Followed | None]] = deque([(Scope(parsed.tree, namespace), None)])
    while texts and len(seen) < _MOST_FUNCTIONS:
        scope, text = texts.popleft()
        for mention, function, owner in _called(scope):
            code = function.__code__
            if code in seen:
                known = seen[code]
                found += [] if known is None else [Call(text, mention.path, known)]
                continue
            seen[code] = None
            within = "" if text is None else f" of `{text.function.__qualname__}`"
            source, called_in = source_of(function), f"line {mention.line}{within}"
            if isinstance(source, ParsedCell):
                names = {**function.__globals__, **_closed_over(function)}
                one = Followed(function, source, names, called_in, mention.path, text)
                seen[code] = one
                found.append(Call(text, mention.path, one))
                given = scope.arguments(mention, _parameters(function, is_method=owner is not MISSING))
                texts.append((Scope(source.tree, names, owner, given), one))
            elif source is not None:
                unreadable.append(f"{called_in}: `{mention.path}` trains, but {source}")
    visited = tuple(one for one in seen.values() if one is not None)
    return Following(visited, tuple(found), next(iter(unreadable), None))


def _called(scope: Scope) -> Iterator[tuple[Mention, FunctionType, Any]]:
    for mention in mentions(scope.tree):
        yield from ((mention, function, owner) for function, owner in _functions_of(scope.value(mention)))


def _functions_of(value: Any) -> Iterator[tuple[FunctionType, Any]]:
    """Yield the Python functions behind a value, each with the object (or class) that is its `self`."""
    match value:
        case FunctionType():
            inner = inspect.unwrap(value)  # `@torch.no_grad()` and other decorators of packages
            yield from ((f, _class_of(f)) for f in dict.fromkeys((value, inner)) if isinstance(f, FunctionType))
        case MethodType(__func__=function, __self__=owner):
            yield from ((f, owner) for f, _ in _functions_of(function))
        case staticmethod() | classmethod():
            yield from _functions_of(value.__func__)
        case functools.partial():
            yield from _functions_among((value.func, *value.args, *value.keywords.values()))
        case dict():
            yield from _functions_among(value.values())
        case list() | tuple():
            yield from _functions_among(value)
        case _:
            yield from _functions_of_class(value)


def _functions_among(values: Iterable[Any]) -> Iterator[tuple[FunctionType, Any]]:
    for value in values:
        if isinstance(value, FunctionType | MethodType | functools.partial):
            yield from _functions_of(value)


def _functions_of_class(value: Any) -> Iterator[tuple[FunctionType, Any]]:
    """Yield what runs when a class of the user's, or an object of one, is called."""
    kind = value if isinstance(value, type) else type(value)
    if kind is ModuleType or is_installed(inspect.getmodule(kind)):
        return
    for name in ("__init__", "__call__", "forward"):
        yield from ((f, value) for f, _ in _functions_of(vars(kind).get(name)))


def _parameters(function: FunctionType, *, is_method: bool) -> list[str]:
    code = function.__code__
    return list(code.co_varnames[is_method : code.co_argcount + code.co_kwonlyargcount])


def _closed_over(function: FunctionType) -> dict[str, Any]:
    """Return what a function closes over; a cell that is not filled yet is left out."""
    values = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):
            values[name] = cell.cell_contents
    return values


def _class_of(function: FunctionType) -> Any:
    """Return the class a plain function was defined in, as far as its module still has it under that name."""
    outer, _, _ = function.__qualname__.rpartition(".")
    if not outer or outer.endswith("<locals>"):
        return MISSING
    found = resolve(function.__globals__, outer)
    return found if isinstance(found, type) else MISSING

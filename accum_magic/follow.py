"""Finds the functions that train for a cell, in the notebook and in the user's own modules."""

from __future__ import annotations

import ast
import contextlib
import copy
import dis
import functools
import inspect
import linecache
import site
import sysconfig
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from accum_magic.bind import code_like, is_rewritten
from accum_magic.cell.mentions import Mention, made_by, mentions
from accum_magic.cell.parse import ParsedCell, parsed_tree
from accum_magic.cell.recognise import nodes
from accum_magic.namespace import MISSING, resolve

_COPY = "Copy the function into the notebook, or write the training loop in this cell."
_STALE = (
    "its source cannot be read, or is no longer what was run. Run the cell that defines it (or import its module) "
    "once more, or put `%%accumulate` on that cell."
)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_MOST_FUNCTIONS = 200  # a cell that mentions more than these looks into a whole program


@dataclass(frozen=True, slots=True)
class Followed:
    """A function of the user's that a cell calls, directly or through others, and that calls `backward`."""

    function: FunctionType
    parsed: ParsedCell  # its definition alone, with the line numbers of the file or cell it stands in
    names: Mapping[str, Any]  # its globals and what it closes over
    called_in: str  # `line 3` of the cell, or `line 5 of `fit``
    path: str  # by which the caller names it
    caller: Followed | None  # None: the cell


def follow(parsed: ParsedCell, namespace: Mapping[str, Any]) -> tuple[list[Followed], str | None]:
    """Return the functions that train for a cell, and why one that trains cannot be read."""
    found: list[Followed] = []
    unreadable: list[str] = []
    seen: set[CodeType] = set()
    scopes = deque([_Scope(parsed.tree, namespace)])
    while scopes and len(seen) < _MOST_FUNCTIONS:
        scope = scopes.popleft()
        for mention, function, owner in _called(scope):
            if function.__code__ in seen:
                continue
            seen.add(function.__code__)
            source, called_in = _source_of(function), f"line {mention.line}{scope.within}"
            if isinstance(source, ParsedCell):
                names = {**function.__globals__, **_closed_over(function)}
                one = Followed(function, source, names, called_in, mention.path, scope.text)
                found += [one] if source.backwards else []
                scopes.append(_Scope(source.tree, names, owner, one))
            elif source is not None:
                unreadable.append(f"{called_in}: `{mention.path}` trains, but {source}")
    return found, next(iter(unreadable), None)


def _called(scope: _Scope) -> Iterator[tuple[Mention, FunctionType, Any]]:
    for mention in mentions(scope.tree):
        yield from ((mention, function, owner) for function, owner in _functions_of(scope.value(mention)))


class _Scope:
    """A text and what the names in it stand for."""

    def __init__(
        self, tree: ast.Module, names: Mapping[str, Any], owner: object = MISSING, text: Followed | None = None
    ) -> None:
        self.tree, self.names, self.owner, self.text = tree, names, owner, text
        self.within = "" if text is None else f" of `{text.function.__qualname__}`"
        self.made = made_by(tree)
        inner = nodes(tree)
        arguments = [n.arg for n in inner if isinstance(n, ast.arg)]
        self.itself = arguments[0] if arguments and owner is not MISSING else None
        self.bound = {n.id for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        self.bound |= {*arguments, *(n.name for n in inner if isinstance(n, _DEFINITIONS))}

    def value(self, mention: Mention) -> Any:
        """Return what a path stands for; where an object has still to be made, what its class has there."""
        first, dot, rest = mention.path.partition(".")
        if first == self.itself:
            return resolve({first: self.owner}, mention.path)
        if first in self.bound:
            kind = resolve(self.names, self.made[first]) if first in self.made else MISSING
            return resolve({first: kind}, mention.path) if dot and isinstance(kind, type) else MISSING
        if mention.is_made:
            kind = resolve(self.names, mention.path.rpartition(".")[0])
            return resolve({first: kind}, f"{first}.{rest.rpartition('.')[2]}") if isinstance(kind, type) else MISSING
        return resolve(self.names, mention.path)


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
    if kind is ModuleType or _is_installed(inspect.getmodule(kind)):
        return
    for name in ("__init__", "__call__", "forward"):
        yield from ((f, value) for f, _ in _functions_of(vars(kind).get(name)))


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


# ---------------------------------------------------------------- whose code it is, and its text


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = [paths[k] for k in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages(), str(Path(__file__).parent)]
    return tuple(dict.fromkeys(f"{Path(f)}/" for f in folders))


def _is_installed_file(filename: str) -> bool:
    return filename.startswith(("<frozen", *_installed_folders()))


def _is_installed(module: ModuleType | None) -> bool:
    """Whether a module came with Python or a package; a notebook's `__main__` has no file."""
    if module is None or module.__name__ == "__main__":
        return False
    file = getattr(module, "__file__", None)
    return file is None or _is_installed_file(file)


def _source_of(function: FunctionType) -> ParsedCell | str | None:
    """Return a function's definition as a text of its own; or why one that trains cannot be read, else None."""
    code, why = function.__code__, _STALE
    if _is_installed_file(code.co_filename):
        package = (function.__module__ or "").partition(".")[0]
        why = f"belongs to an installed package (`{package}`), whose code is never rewritten. {_COPY}"
    else:
        linecache.checkcache(code.co_filename)  # a module's file may have been edited since
        text = "".join(linecache.getlines(code.co_filename, function.__globals__))
        definition = _definition(text, code)
        if definition is not None and _is_current(function, definition):
            return parsed_tree(text, ast.Module([copy.deepcopy(definition)], []))
    return why if _calls_backward(code) else None


def _calls_backward(code: CodeType) -> bool:
    if code.co_name == "backward":
        return False  # `accelerator.backward(loss)` is no training loop
    return "backward" in code.co_names or any(_calls_backward(c) for c in code.co_consts if isinstance(c, CodeType))


@functools.lru_cache(maxsize=64)
def _parsed_file(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def _definition(text: str, code: CodeType) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """Find the definition that a code object was compiled from; its first line is that of its first decorator."""
    tree = _parsed_file(text)
    for node in () if tree is None else nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name:
            first = min((d.lineno for d in node.decorator_list), default=node.lineno)
            if code.co_firstlineno in {first, node.lineno}:
                return node
    return None


def _is_current(function: FunctionType, definition: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the text is what was run; a function that `%%accumulate` has rewritten already is read anew."""
    made, code = code_like(function, definition), function.__code__
    if made is None:
        return False
    return is_rewritten(code) or _operations(made) == _operations(code)


def _operations(code: CodeType) -> list[object]:
    """Return what code does to which names and constants, in order.

    Bytecode itself depends on the rest of its module: `torch.mean()` is another instruction beside `import torch`.
    """
    operator = dis.opmap["BINARY_OP"]
    inner = [_operations(c) for c in code.co_consts if isinstance(c, CodeType)]
    tell = {*dis.hasname, *dis.hasconst, *dis.haslocal, *dis.hasfree, *dis.hascompare, operator}
    own = [i for i in dis.get_instructions(code) if i.opcode in tell and not isinstance(i.argval, CodeType)]
    return [*inner, *((type(i.argval), i.argrepr if i.opcode == operator else i.argval) for i in own)]

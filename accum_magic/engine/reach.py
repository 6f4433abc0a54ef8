"""What a step can reach by its names: modules, objects of the user's classes, lists and dicts they may change."""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

MOST_OBJECTS = 5_000
MOST_ITEMS = 64  # of a list or dict that are looked into
CONTAINERS = (list, dict, set, deque)
_LEFT_ALONE = (type, ModuleType, str, bytes, int, float, complex, type(None), torch.dtype, torch.device, nn.Parameter)
_YIELDED = (nn.Module, torch.Tensor, torch.Generator, FunctionType, *CONTAINERS)
_INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


@functools.cache
def is_users(module_name: str) -> bool:
    """Tell whether code of a module is the user's own: of the notebook, or of a file that was not installed."""
    root = module_name.partition(".")[0]
    if root == "__main__":
        return True  # whatever file the kernel or the test runner was started from
    if root == "accum_magic" or root in sys.stdlib_module_names:
        return False
    module = sys.modules.get(module_name) or sys.modules.get(root)
    file = getattr(module, "__file__", None) or ""
    return not any(part.endswith("-packages") for part in Path(file).parts) and not file.startswith(_INSTALLED)


def reachable(sources: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    """Yield (label, object) of all that may hold state, as far as names, attributes and items lead."""
    queue: deque[tuple[str, Any]] = deque(sources.items())
    seen: set[int] = set()
    while queue and len(seen) < MOST_OBJECTS:
        label, value = queue.popleft()
        if isinstance(value, _LEFT_ALONE) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, _YIELDED) or has_own_state(value):
            yield label, value
        queue.extend(_below(label, value))


def has_own_state(value: object) -> bool:
    """Tell an object of a class that the user has written."""
    return isinstance(getattr(value, "__dict__", None), dict) and is_users(type(value).__module__)


def _below(label: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, FunctionType):
        return _of_function(value) if is_users(value.__module__ or "") else ()
    if isinstance(value, MethodType):
        return (label, value.__self__), (label, value.__func__)
    if isinstance(value, functools.partial):
        return (label, value.func), *((label, part) for part in (*value.args, *value.keywords.values()))
    if isinstance(value, nn.Module):
        return _of_module(value)
    if isinstance(value, dict):
        return [(f"{label}[{k!r}]", v) for k, v in _first(value.items())]
    if isinstance(value, list | tuple | deque):
        return [(f"{label}[{i}]", v) for i, v in enumerate(_first(value))]
    return _of_object(value) if has_own_state(value) else ()


def _first(items: Iterable[Any]) -> list[Any]:
    return [item for item, _ in zip(items, range(MOST_ITEMS), strict=False)]


def _of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name in names_of(function.__code__):
        if name in function.__globals__:
            yield name, function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if is_bound(cell):
            yield name, cell.cell_contents
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield function.__name__, default


def is_bound(cell: CellType) -> bool:
    """Tell whether a variable of a closure has a value yet."""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def names_of(code: CodeType) -> set[str]:
    """Return the names that code reads of its globals, and those of attributes, in inner functions too."""
    inner = [names_of(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*inner)


def _of_module(module: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from module._modules.items()
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        yield "hook", hook
    if is_users(type(module).__module__):
        yield from _of_object(module)


def _of_object(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    for name, attribute in vars(value).items():
        if name not in MODULE_ATTRIBUTES or not isinstance(value, nn.Module):
            yield f"{kind.__name__}.{name}", attribute
    for parent in kind.__mro__:
        if is_users(parent.__module__):
            yield from ((kind.__name__, part) for part in vars(parent).values() if isinstance(part, FunctionType))


MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
"""What PyTorch itself keeps in a module: parameters, buffers, hooks."""

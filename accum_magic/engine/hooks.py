"""Hooks of the user's own: each sees one micro-batch where the plain cell shows it the whole batch."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

SEES_PARTS = "{} sees one micro-batch at a time"
# What these hang on a module or parameter is part of how they train, in micro-batches too.
_OF_PACKAGES = frozenset(
    {"torch", "accelerate", "lightning", "lightning_fabric", "transformers", "peft", "deepspeed", "accum_magic"}
)
_ON_MODULES = {
    "forward hook": ("_forward_hooks", "_forward_pre_hooks"),
    "gradient hook": ("_backward_hooks", "_backward_pre_hooks"),
}


def hook_reasons(modules: Iterable[nn.Module], parameters: Iterable[torch.Tensor], *, on_values: bool) -> list[str]:
    """Return why hooks keep a step from being exact; `on_values`: the step itself hangs hooks on its tensors."""
    modules = tuple(modules)
    found = [
        SEES_PARTS.format(f"the {kind} on a module ({_listed(named)})")
        for kind, tables in _ON_MODULES.items()
        if (named := _hooked_modules(modules, tables))
    ]
    hooked = [p for p in parameters if _is_hooked(p, ("_backward_hooks", "_post_accumulate_grad_hooks"))]
    if hooked:
        names = _names(modules, lambda module: module.named_parameters())
        inside = [name for key, name in names.items() if key in {id(p) for p in hooked}]
        listed = _listed(inside or ["of no module"])
        found.append(SEES_PARTS.format(f"the gradient hook on a parameter ({listed})"))
    if on_values:
        found.append(SEES_PARTS.format("the gradient hook on a value of the step"))
    return found


def _hooked_modules(modules: Iterable[nn.Module], tables: Iterable[str]) -> list[str]:
    names = _names(modules, lambda module: module.named_modules())
    return [names[id(m)] or type(m).__name__ for m in modules if _is_hooked(m, tables)]


def _names(modules: Iterable[nn.Module], named: Any) -> dict[int, str]:
    """Return the names of parameters or modules by id, as the outermost module calls them."""
    found: dict[int, str] = {}
    for module in modules:
        if id(module) not in found:
            for name, part in named(module):
                found.setdefault(id(part), name)
    return found


def _is_hooked(holder: object, tables: Iterable[str]) -> bool:
    hooks: Iterable[Mapping[int, object]] = [getattr(holder, table, None) or {} for table in tables]
    return any(not _is_of_package(hook) for table in hooks for hook in table.values())


def _is_of_package(hook: Any) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return module.partition(".")[0] in _OF_PACKAGES


def _listed(names: list[str]) -> str:
    more = len(names) - 1
    return f"`{names[0]}`" + (f" and {more} more" if more else "")

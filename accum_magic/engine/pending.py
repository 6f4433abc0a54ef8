"""Memory that training will take and has not yet: gradients, the state of optimizers, what their step needs."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

_TEMPORARIES = 2  # of a parameter's size while it is updated: Adam's root of the squares, and its quotient
_STATES_UNTOLD = 2  # copies of a parameter that an optimizer keeps which cannot be asked: Adam's two


def missing_gradients(parameters: Iterable[torch.Tensor]) -> int:
    """Return the bytes that the gradients of parameters will take, where there are none."""
    return sum(_bytes(p) for p in parameters if p.grad is None)


def missing_state(parameters: Iterable[torch.Tensor], names: Mapping[str, object] | None = None) -> int:
    """Return the bytes that the optimizers of parameters will take at their first step.

    They are looked for among the `names` of the cell, and where those do not tell of every parameter among all objects:
    that takes some tenths of a second in a large notebook, so it is asked only before the first update.
    """
    mine = set(parameters)
    named: list[Any] = [value for value in (names or {}).values() if issubclass(type(value), Optimizer)]
    if mine <= {p for o in named for group in o.param_groups for p in group["params"]}:
        return sum(_missing_state(optimizer, mine) for optimizer in named)
    # the engine is handed none before the first has stepped; `type`, since proxies may do anything when asked
    found = [o for o in gc.get_objects() if issubclass(type(o), Optimizer)]
    return sum(_missing_state(optimizer, mine) for optimizer in found)


def update_bytes(parameters: Iterable[torch.Tensor]) -> int:
    """Return the bytes that an optimizer on a CPU takes for a moment, one parameter after the other."""
    return _TEMPORARIES * max(map(_bytes, parameters), default=0)


def gradient_bytes(parameters: Iterable[torch.Tensor]) -> int:
    """Return the bytes of the gradients that are there."""
    return sum(_bytes(p.grad) for p in parameters if p.grad is not None)


def _missing_state(optimizer: Optimizer, mine: set[torch.Tensor]) -> int:
    missing = 0
    for group in optimizer.param_groups:
        new = [p for p in group["params"] if p in mine and not optimizer.state.get(p)]
        if new:
            missing += round(_copies_kept(optimizer, group, new[0]) * sum(map(_bytes, new)))
    return missing


def _copies_kept(optimizer: Optimizer, group: Mapping[str, Any], like: torch.Tensor) -> float:
    """Return how many times the bytes of a group's parameters an optimizer keeps, as its kind does on four numbers.

    Adafactor, which keeps a row and a column of a matrix, is overrated by that: a whole copy.
    """
    parameter = torch.zeros(2, 2, dtype=like.dtype, requires_grad=True)
    parameter.grad = torch.zeros_like(parameter)
    try:
        twin = type(optimizer)([{**group, "params": [parameter]}], **optimizer.defaults)
        getattr(type(twin).step, "__wrapped__", type(twin).step)(twin)  # no hook counts it as a step
    except Exception:  # noqa: BLE001 - an optimizer with a constructor or a closure of its own is not asked
        return _STATES_UNTOLD
    kept = [v for v in twin.state[parameter].values() if isinstance(v, torch.Tensor) and v.ndim]
    return sum(map(_bytes, kept)) / _bytes(parameter)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()

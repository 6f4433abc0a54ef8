"""Whether a tensor's version counter tells that an optimizer has changed it."""

from __future__ import annotations

import dis
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch.optim import Optimizer

# `.data` has a counter of its own; the others lead past PyTorch altogether.
_PAST_THE_COUNTER = frozenset({"data", "data_ptr", "numpy", "set_", "storage", "untyped_storage", "__dlpack__"})
_WITHOUT_COUNTING = ("_foreach_", "_fused_")  # not always, as above: of a user's own use too little is known
_KNOWN_PACKAGES = frozenset({"torch", "math", "builtins", "typing", "collections", "functools", "itertools"})


def versions_tell(optimizer: Optimizer, new: Sequence[Mapping[str, object]]) -> bool:
    """Tell whether every change that an optimizer has made counts in the tensors' `_version`; `new` is its new state.

    PyTorch's own do, but for three cases measured in torch 2.13. A fused kernel counts nothing; Adam's, however,
    counts up the steps of its state before it. An operation on a list of tensors (`foreach`) counts nothing under a
    TorchDispatchMode and for subclasses that have `__torch_dispatch__`; and it counts when it is complete, so where
    dtypes differ, and each tensor is copied on the way, it may fail between two of them.

    Others' do where all the Python that they consist of is known and leads to PyTorch alone: not what writes to
    `p.data`, as old optimizers do, nor what calls kernels of its own, as those of bitsandbytes and apex.
    """
    for group in optimizer.param_groups:
        if group.get("fused") and not (isinstance(optimizer, torch.optim.Adam) and not any(map(_is_counted, new))):
            return False
        if _may_be_foreach(group) and not _are_alike(group):
            return False
    seen: set[object] = set()
    own = [kind for kind in type(optimizer).__mro__ if not _is_known(kind.__module__)]
    return all(_counts(member, seen) for kind in own for member in vars(kind).values())


def _is_counted(state: Mapping[str, object]) -> bool:
    step = state.get("step")
    return isinstance(step, torch.Tensor) and step._version > 0


def _may_be_foreach(group: Mapping[str, Any]) -> bool:
    """Tell whether PyTorch may work on lists; by default it does on accelerators."""
    asked = group.get("foreach", False)
    return bool(asked) or (asked is None and any(p.device.type != "cpu" for p in group["params"]))


def _are_alike(group: Mapping[str, Any]) -> bool:
    if torch._C._len_torch_dispatch_stack():
        return False
    return all(
        type(p) in {torch.Tensor, torch.nn.Parameter} and (p.grad is None or p.grad.dtype == p.dtype)
        for p in group["params"]
    )


def _is_known(module: str | None) -> bool:
    return (module or "builtins").partition(".")[0] in _KNOWN_PACKAGES


def _counts(member: object, seen: set[object]) -> bool:
    """Tell whether a function, and all that it calls by name, changes tensors by PyTorch alone."""
    if isinstance(member, staticmethod | classmethod):
        member = member.__func__
    member = _unwrapped(member)
    if isinstance(member, ModuleType):
        return _is_known(member.__name__)
    if isinstance(member, type | FunctionType):
        if _is_known(member.__module__) or member in seen:
            return True
        seen.add(member)
    if isinstance(member, type):
        return all(_counts(value, seen) for value in vars(member).values())
    if not isinstance(member, FunctionType):
        return not callable(member) or _is_known(getattr(member, "__module__", None))
    codes = list(_codes(member.__code__))
    if any(name in _PAST_THE_COUNTER or name.startswith(_WITHOUT_COUNTING) for c in codes for name in c.co_names):
        return False
    names = {i.argval for code in codes for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    used = [member.__globals__[name] for name in names if name in member.__globals__]
    return all(_counts(value, seen) for value in (*used, *_closed_over(member)))


def _unwrapped(member: object) -> object:
    """Return what stands below decorators that copy its name: `no_grad`, PyTorch's hooks, ours."""
    while isinstance(member, FunctionType) and hasattr(member, "__wrapped__"):
        member = member.__wrapped__
    return member


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _closed_over(function: FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a name that has no value yet
            yield cell.cell_contents

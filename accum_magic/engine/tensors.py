"""One tensor as it was: its values, its place in memory, its gradient, its hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def tensor_undo(tensor: torch.Tensor, *, is_copied: bool, missed: Callable[[], None]) -> Callable[[], None]:
    """Return what puts a tensor back to what it is now.

    Args:
        tensor: A parameter, a buffer, any tensor.
        is_copied: Whether its values are kept, in the host's memory: an accelerator may have no room for them.
        missed: Called where the values are not kept and something was written into them.

    """
    flags = _flags_undo(tensor)
    if not _has_values(tensor):
        return flags
    version = tensor._version
    values = _values_undo(tensor) if is_copied else None

    def undo() -> None:
        if values is not None:
            values()
            # graphs that saved the tensor before are as good as they were
            torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))
        elif tensor._version != version:
            missed()
        flags()  # a gradient has to be as large as its tensor is again

    return undo


def _has_values(tensor: torch.Tensor) -> bool:
    is_plain = tensor.layout is torch.strided and not is_traceable_wrapper_subclass(tensor)
    return is_plain and tensor.device.type != "meta" and not tensor.is_inference()


def _values_undo(tensor: torch.Tensor) -> Callable[[], None]:
    version, place = tensor._version, tensor.data
    kept = place.detach().to("cpu", copy=True)

    def undo() -> None:
        if tensor.data_ptr() != place.data_ptr() or tensor.shape != place.shape:
            tensor.data = place
        # what is unchanged may lie in memory that nobody can write to, such as a file's
        if tensor._version != version or not _is_equal(place.cpu(), kept):
            place.copy_(kept)

    return undo


def _is_equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left, right) or bool(((left == right) | ((left != left) & (right != right))).all())  # noqa: PLR0124 - NaN


def _flags_undo(tensor: torch.Tensor) -> Callable[[], None]:
    """What belongs to a leaf: whether it trains, its gradient, the hooks on it."""
    trains, is_leaf = tensor.requires_grad, tensor.is_leaf
    gradient = tensor.grad if is_leaf else None
    hooks = {name: _items(getattr(tensor, name, None)) for name in _HOOKS}

    def undo() -> None:
        if not is_leaf:
            return
        if not tensor.is_leaf and not tensor._is_view():
            tensor.detach_()  # something with a graph was written into it
        if tensor.is_leaf and tensor.requires_grad != trains:
            tensor.requires_grad_(trains)
        if tensor.grad is not gradient:
            tensor.grad = gradient
        for name, before in hooks.items():
            now = getattr(tensor, name, None)
            if now is not None and _items(now) != before:
                now.clear()
                now.update(before)

    return undo


def _items(table: Any) -> dict[Any, Any]:
    return dict(table or {})

"""Bytes that autograd keeps for the backward pass."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import torch
from torch.autograd.graph import saved_tensors_hooks

if TYPE_CHECKING:
    from types import TracebackType

_CHANGED = (
    "one of the variables needed for gradient computation has been modified by an inplace operation: the tensor of "
    "shape {} is at version {}; expected version {} instead"
)


class SavedTensors:
    """Count the bytes of the tensors that autograd saves for the backward pass.

    Storages are counted once however many nodes save them. Parameters (leaves that require a gradient, and
    views of them) are not counted: they live as long as the model. What a backward frees is taken off
    again, also after the ``with`` block, so ``now_bytes`` follows the life of the graph.

    Example: what the plain cell needs for its activations, in a notebook::

        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> with SavedTensors() as plain:
        ...     loss = model(torch.ones(16, 8)).mean()
        >>> plain.now_bytes  # input (16, 8) and activations (16, 8), four bytes each
        1024
        >>> loss.backward()
        >>> plain.now_bytes, plain.peak_bytes
        (0, 1024)

    Attributes:
        now_bytes: bytes held at this moment.
        peak_bytes: the most bytes held at any moment since the block was entered.

    A saved view counts its whole storage, for that is what it keeps alive. Tensors that a custom autograd
    function keeps outside ``save_for_backward`` are not seen. The hooks are PyTorch's own:
    https://docs.pytorch.org/docs/stable/autograd.html#saved-tensors-default-hooks
    """

    def __init__(self) -> None:
        self.now_bytes = 0
        self.peak_bytes = 0
        # Device threads of a backward free saved tensors too; a garbage collection inside the lock may
        # run `_Held.__del__` in the same thread, so the lock must be reentrant.
        self._lock = threading.RLock()
        self._holders: dict[int, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(saved_tensors_hooks(self._pack, self._unpack))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _pack(self, tensor: torch.Tensor) -> _Held:
        if _is_parameter(tensor) or _is_storageless(tensor):
            return _Held(tensor, None, 0, 0)
        storage = tensor.untyped_storage()
        # Detached: a node that saves its own output would hold a tensor that holds the node, and a graph
        # that is dropped without a backward would live for ever. Unpacking puts the graph back.
        held = _Held(tensor.detach(), self, storage.data_ptr(), storage.nbytes())
        self._add(held)
        return held

    def _unpack(self, held: _Held) -> torch.Tensor:
        if held.tensor._version != held.version:  # with hooks PyTorch leaves this to them
            raise RuntimeError(_CHANGED.format(tuple(held.tensor.shape), held.tensor._version, held.version))
        return held.tensor

    def _add(self, held: _Held) -> None:
        with self._lock:
            holders = self._holders.get(held.key, 0)
            self._holders[held.key] = holders + 1
            if holders == 0:
                self.now_bytes += held.nbytes
                self.peak_bytes = max(self.peak_bytes, self.now_bytes)

    def _drop(self, held: _Held) -> None:
        with self._lock:
            holders = self._holders.pop(held.key) - 1
            if holders:
                self._holders[held.key] = holders
            else:
                self.now_bytes -= held.nbytes


class _Held:
    """What the graph keeps in place of a saved tensor; its end is the end of the saved tensor."""

    __slots__ = ("counter", "key", "nbytes", "tensor", "version")

    def __init__(self, tensor: torch.Tensor, counter: SavedTensors | None, key: int, nbytes: int) -> None:
        self.tensor = tensor
        self.version = tensor._version
        self.counter = counter
        self.key = key
        self.nbytes = nbytes

    def __del__(self) -> None:
        if self.counter is not None:
            self.counter._drop(self)


def _is_parameter(tensor: torch.Tensor) -> bool:
    # `weight.t()` is what a linear layer saves: a view, whose base is the leaf.
    base = tensor._base if tensor._is_view() else tensor
    base = tensor if base is None else base
    return base.is_leaf and base.requires_grad


def _is_storageless(tensor: torch.Tensor) -> bool:
    # Sparse and some wrapper tensors have no storage of their own to ask.
    return tensor.layout is not torch.strided or tensor.device.type == "meta"

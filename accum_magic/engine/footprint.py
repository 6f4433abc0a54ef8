"""What the memory of a run is used for: parameters, gradients, optimizer state, activations, all else."""

from __future__ import annotations

import time
import weakref
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

_COUNTED_AGAIN_S = 1.0  # a view asks five times a second, and a thousand parameters take milliseconds


@dataclass(frozen=True, slots=True)
class Footprint:
    """The bytes of a run's peak, by what they are for; on a CPU `activations` are estimated by the probe.

    `parameters` are those that steps have reached, with their `gradients` and the state of the optimizers that have
    stepped, as they are when asked. `other` is the rest: the data, frozen parameters, on a CPU the libraries.
    """

    parameters: int
    gradients: int
    optimizer_state: int
    activations: int
    other: int


class Holdings:
    """What a run has met that holds memory, by weak references: nothing lives longer for being counted."""

    def __init__(self) -> None:
        self._parameters: dict[int, weakref.ref[torch.Tensor]] = {}
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._groups: set[tuple[int, int]] = set()  # of parameters that a step reaches: the first one, and how many
        self._counted, self._counted_s = (0, 0, 0), 0.0  # when: 0 where something is new

    def reach(self, parameters: Collection[torch.Tensor]) -> None:
        """Take note of parameters that a step has reached."""
        known = self._parameters
        group = (id(next(iter(parameters), None)), len(parameters))
        if group[0] in known and group in self._groups:
            return  # as in every step but the first
        for parameter in parameters:
            key = id(parameter)
            if key not in known:
                known[key] = weakref.ref(parameter, partial(_forget, known, key))
        self._groups.add(group)
        self._counted_s = 0.0

    def stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """Take note of an optimizer that has stepped."""
        if optimizer not in self._optimizers:
            self._optimizers.add(optimizer)
            self._counted_s = 0.0

    def count(self, device: torch.device) -> None:
        """Count where something is new, or a second has gone by; to be called between steps, by the thread that trains.

        A backward writes `.grad` without Python's lock: another thread that read it then could crash the process.
        """
        now_s = time.monotonic()
        if now_s - self._counted_s > _COUNTED_AGAIN_S:
            self._counted, self._counted_s = self._count(device), now_s

    def footprint(
        self, device: torch.device, peak_bytes: int, rest_bytes: int, activation_bytes: float | None, *, anew: bool
    ) -> Footprint:
        """Divide the peak of a run.

        Args:
            device: The device that is measured; what lies elsewhere does not count.
            peak_bytes: The peak.
            rest_bytes: What was in use as a step began: of an accelerator it tells the activations from the rest.
            activation_bytes: The estimate of the activations, for a CPU.
            anew: Count now; otherwise what `count` has found will do.

        """
        if anew:
            self._counted = self._count(device)
        parameters, gradients, state = self._counted
        if device.type == "cpu":
            activations = int(activation_bytes or 0)
        else:  # gradients are made in the step, the rest is there before it
            activations = max(0, peak_bytes - max(rest_bytes, parameters + state) - gradients)
        other = max(0, peak_bytes - parameters - gradients - state - activations)
        return Footprint(parameters, gradients, state, activations, other)

    def _count(self, device: torch.device) -> tuple[int, int, int]:
        met: set[int] = set()
        parameters = [p for reference in list(self._parameters.values()) if (p := reference()) is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        # another thread may train meanwhile: a list of a dict's values is made at once
        state = [t for optimizer in list(self._optimizers) for t in _tensors(list(optimizer.state.values()))]
        return _bytes(parameters, device, met), _bytes(gradients, device, met), _bytes(state, device, met)


def _forget(known: dict[int, weakref.ref[torch.Tensor]], key: int, _: object) -> None:
    known.pop(key, None)  # the id may be another tensor's soon


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in list(value.values()) if isinstance(value, dict) else value:
            yield from _tensors(part)


def _bytes(tensors: Iterable[torch.Tensor], device: torch.device, met: set[int]) -> int:
    """Return the bytes of the storages that have not been met yet."""
    total = 0
    for tensor in tensors:
        local = getattr(tensor, "_local_tensor", tensor)  # a DTensor's share of this rank
        for dense in (local._indices(), local._values()) if local.layout is torch.sparse_coo else (local,):
            if dense.device == device and dense.layout is torch.strided:
                storage = dense.untyped_storage()
                if storage._cdata not in met:
                    met.add(storage._cdata)
                    total += storage.nbytes()
    return total

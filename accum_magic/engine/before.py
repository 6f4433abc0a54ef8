"""What an optimizer was before a step: whether a step that failed has changed anything, and taking back what is new."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat, starmap
from operator import attrgetter
from typing import Any

import torch
from torch.optim import Optimizer

from accum_magic.engine.versions import versions_tell

_version, _gradient = attrgetter("_version"), attrgetter("grad")
_PLAIN = (int, float, complex, str, bytes, type(None))


@dataclass(frozen=True, slots=True)
class Changes:
    """What a step that failed has changed."""

    updated: int | None
    """Parameters; None where it cannot be told."""
    parameters: int
    """That the step was to update."""
    states: int
    """Parameters whose state, or gradient, was changed."""

    @property
    def is_nothing(self) -> bool:
        """Whether the step can be run again."""
        return self.updated == 0 and self.states == 0


class Before:
    """The version counters of all that a step may change.

    State tensors are known by their addresses, not held: an optimizer that makes new ones frees the old. The first
    that is replaced has another address than its successor, for both are alive then.
    """

    __slots__ = ("attributes", "gradients", "groups", "ids", "lengths", "marks", "optimizer", "parameters")

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.groups = [group.copy() for group in optimizer.param_groups]
        self.attributes = vars(optimizer).copy()
        parameters = [p for group in self.groups for p in group["params"]]
        self.parameters = list(map(_version, parameters))
        self.gradients = list(map(getattr, map(_gradient, parameters), repeat("_version"), repeat(None)))
        self.marks: list[Any] | None
        try:
            states = [own.values() for own in optimizer.state.values()]
        except AttributeError:  # no dict per parameter: what it holds cannot be looked through
            self.lengths, self.ids, self.marks = [], [], None
            return
        self.lengths = list(map(len, states))
        values = list(chain.from_iterable(states))
        self.ids = list(map(id, values))
        try:
            self.marks = list(map(_version, values))
        except AttributeError:  # numbers among them
            self.marks = [_mark(value) for value in values]

    def changes(self) -> Changes:
        """Return what is another than it was."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        total = sum(gradient is not None for gradient in self.gradients)
        is_opaque = self.marks is None or any(mark is _OPAQUE for mark in self.marks)
        if is_opaque or not versions_tell(self.optimizer, self._new_states()):
            return Changes(None, total, 0)
        updated = sum(p._version != version for p, version in zip(parameters, self.parameters, strict=True))
        gradients = (None if p.grad is None else p.grad._version for p in parameters)
        states = sum(now != then for now, then in zip(gradients, self.gradients, strict=True))
        states += sum(starmap(_is_changed, self._states()))
        if states and any(group.get("fused") for group in self.groups):
            return Changes(None, total, states)
        return Changes(updated, total, states)

    def _new_states(self) -> list[dict[str, Any]]:
        return list(self.optimizer.state.values())[len(self.lengths) :]

    def _states(self) -> Iterator[tuple[dict[Any, Any], list[int], list[Any]]]:
        """Yield each state that there was, with the addresses and marks of its values."""
        start = 0
        for own, length in zip(self.optimizer.state.values(), self.lengths, strict=False):
            yield own, self.ids[start : start + length], (self.marks or [])[start : start + length]
            start += length

    def put_back(self) -> None:
        """Take away what a step that changed no tensor has made: new state, counters, attributes."""
        state = self.optimizer.state
        for parameter in list(state)[len(self.lengths) :]:
            del state[parameter]
        for own, ids, marks in self._states():
            for key in list(own)[len(ids) :]:
                del own[key]
            for key, mark in zip(own, marks, strict=True):
                if not isinstance(own[key], torch.Tensor):
                    own[key] = mark.value
        for now, then in [(vars(self.optimizer), self.attributes), *zip(self.optimizer.param_groups, self.groups)]:  # noqa: B905
            for key in now.keys() - then.keys():
                del now[key]
            now.update(then)


@dataclass(frozen=True, slots=True)
class _Plain:
    """A value that no one can change in place."""

    value: Any


_OPAQUE = object()


def _mark(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value._version
    return _Plain(value) if isinstance(value, _PLAIN) else _OPAQUE


def _is_changed(own: dict[Any, Any], ids: list[int], marks: list[Any]) -> bool:
    """Tell whether a tensor of a state was changed or exchanged; numbers can be put back."""
    values = list(own.values())
    if len(values) < len(ids):
        return True
    for value, address, mark in zip(values, ids, marks, strict=False):
        if isinstance(mark, _Plain):
            if isinstance(value, torch.Tensor):
                return True
        elif not isinstance(value, torch.Tensor) or id(value) != address or value._version != mark:
            return True
    return False

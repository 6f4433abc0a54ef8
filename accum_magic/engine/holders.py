"""One object as it was: the items of a dict, the entries of a list, attributes, the state of a random generator."""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from random import Random, SystemRandom
from types import ModuleType
from typing import Any

import torch

Undo = Callable[[], None]
MISSING = object()


def state_undo(value: Any) -> Undo | None:
    """Return how the state of a random generator, or of plain memory, is put back."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: _ignore(value.set_state(state))
    if isinstance(value, Random) and not isinstance(value, SystemRandom):
        drawn = value.getstate()
        return lambda: value.setstate(drawn)
    if isinstance(value, bytearray):
        kept = bytes(value)
        return lambda: value.__setitem__(slice(None), kept)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.random.Generator):
        bits = value.bit_generator
        before = bits.state
        return lambda: setattr(bits, "state", before)
    if numpy is not None and isinstance(value, numpy.random.RandomState):
        legacy = value.get_state()
        return lambda: value.set_state(legacy)
    return None


def _ignore(_: object) -> None:
    return None


def items_undo(target: dict[Any, Any]) -> Undo:
    """Put the items of a dict back, in their order; one that holds the same is not touched."""
    base: Any = OrderedDict if isinstance(target, OrderedDict) else dict
    kept = list(base.items(target))

    def undo() -> None:
        found = list(base.items(target))
        if len(found) == len(kept) and all(a is c and b is d for (a, b), (c, d) in zip(found, kept, strict=True)):
            return
        before = dict(kept)
        for key in [k for k in target if k not in before]:
            base.__delitem__(target, key)
        if len(target) < len(before):  # what was taken out would come back at the end
            base.clear(target)
        for key, value in kept:
            base.__setitem__(target, key, value)

    return undo


def entries_undo(value: Any) -> Undo:
    """Put the entries of a list, set or deque back."""
    kept = list(value)

    def undo() -> None:
        if len(value) == len(kept) and all(a is b for a, b in zip(value, kept, strict=True)):
            return
        if isinstance(value, list):
            list.__setitem__(value, slice(None), kept)
            return
        base: Any = deque if isinstance(value, deque) else set
        base.clear(value)
        (deque.extend if isinstance(value, deque) else set.update)(value, kept)

    return undo


def names_undo(target: dict[str, Any], names: Iterable[str]) -> Undo:
    """Put some names of a namespace back."""
    kept = {name: target.get(name, MISSING) for name in names}

    def undo() -> None:
        for name, value in kept.items():
            if value is MISSING:
                target.pop(name, None)
            elif target.get(name, MISSING) is not value:
                target[name] = value

    return undo


def cell_undo(cell: Any) -> Undo:
    """Put the variable of a closure back."""
    kept = cell.cell_contents
    return lambda: setattr(cell, "cell_contents", kept)


def slots_of(value: object) -> dict[str, Any]:
    """Return what an object keeps in slots; MISSING for an empty one."""
    slots: dict[str, Any] = {}
    for kind in type(value).__mro__:
        names = vars(kind).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in {"__dict__", "__weakref__"} and not name.startswith("__"):
                slots[name] = getattr(value, name, MISSING)
    return slots


def set_slots(value: object, kept: Mapping[str, Any]) -> None:
    """Set slots past the rules of the class, which may be frozen."""
    for name, before in kept.items():
        if before is not MISSING:
            object.__setattr__(value, name, before)
        elif hasattr(value, name):
            object.__delattr__(value, name)


def set_attributes(owner: type | ModuleType, kept: Mapping[str, Any]) -> None:
    """Put the attributes of a class or module back."""
    for name in [n for n in vars(owner) if n not in kept and not (n.startswith("__") and n.endswith("__"))]:
        delattr(owner, name)
    for name, value in kept.items():
        if vars(owner).get(name, MISSING) is not value:
            setattr(owner, name, value)

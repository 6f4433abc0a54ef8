"""State that a forward pass changes: put back after the probe, and named where it changes from run to run."""

from __future__ import annotations

import dis
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CellType, FunctionType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from accum_magic.engine.reach import CONTAINERS, MODULE_ATTRIBUTES, is_bound, is_users, reachable

CHANGED = "{names} {is_} changed by the forward pass: {it} once per micro-batch"
CARRIED = "the forward pass reads what the one before it left in {names}, which is another micro-batch's"
KEPT = "{names} {is_} set by the forward pass: after the step {hold} what the last micro-batch left"

_MOST_NAMED = 4
_MOST_COMPARED = 10_000  # items of a list; of a longer one only the length is watched
_MOST_COPIED_BYTES = 1 << 20  # of a tensor that is no buffer
_DEEPEST = 3
_REBINDS = ("STORE_GLOBAL", "STORE_DEREF")
_MISSING = object()
_PLAIN = (bool, int, float, complex, str, bytes, torch.Size)

Changes = dict[str, Any]
"""What differs from the start, by label."""


@dataclass(frozen=True, slots=True, eq=False)
class _Slots:
    """The attributes of an object, shallow."""

    label: str
    holder: dict[str, Any]
    saved: dict[str, Any]
    hidden: frozenset[str] = frozenset()

    def changes(self) -> Changes:
        now = {k: v for k, v in self.holder.items() if k not in self.hidden}
        names = [k for k in {**self.saved, **now} if not is_same(self.saved.get(k, _MISSING), now.get(k, _MISSING))]
        return {f"{self.label}.{k}": now.get(k, _MISSING) for k in names}

    def restore(self) -> None:
        for key in self.changes():
            name = key.removeprefix(f"{self.label}.")
            if name in self.saved:
                self.holder[name] = self.saved[name]
            else:
                del self.holder[name]


@dataclass(frozen=True, slots=True, eq=False)
class _Items:
    """The items of a list, dict, set or deque, shallow."""

    label: str
    holder: Any
    saved: Any

    def changes(self) -> Changes:
        now = _copy_of(self.holder)
        return {} if is_same(self.saved, now) else {self.label: now}

    def restore(self) -> None:
        if not self.changes():
            return
        if isinstance(self.saved, int):  # a long one: what was added at its end is taken off
            if isinstance(self.holder, list):
                del self.holder[self.saved :]
        elif isinstance(self.holder, list):
            self.holder[:] = self.saved
        else:
            self.holder.clear()
            (self.holder.extend if isinstance(self.holder, deque) else self.holder.update)(self.saved)


def _copy_of(holder: Any) -> Any:
    if len(holder) > _MOST_COMPARED:
        return len(holder)
    return dict(holder) if isinstance(holder, dict) else set(holder) if isinstance(holder, set) else list(holder)


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """The values of a tensor that a forward pass may write into."""

    label: str
    holder: torch.Tensor
    saved: torch.Tensor

    def changes(self) -> Changes:
        return {} if is_same(self.saved, self.holder.data) else {self.label: self.holder.data.clone()}

    def restore(self) -> None:
        # Only what changed is written, and past the version counter: the probe's graphs may have saved it.
        if self.changes():
            self.holder.data.copy_(self.saved)


@dataclass(frozen=True, slots=True, eq=False)
class _Buffer:
    """A buffer of a module: the tensor may be written into, or another one put in its place."""

    owner: nn.Module
    name: str
    values: _Values

    def changes(self) -> Changes:
        if isinstance(self.owner, _BatchNorm):
            return {}  # has a reason of its own
        now = self.owner._buffers.get(self.name)
        if now is self.values.holder or now is None:
            return self.values.changes()
        return {} if is_same(self.values.saved, now) else {self.values.label: now.detach().clone()}

    def restore(self) -> None:
        self.owner._buffers[self.name] = self.values.holder
        self.values.restore()


@dataclass(frozen=True, slots=True, eq=False)
class _Generator:
    """A random generator of the user's own."""

    holder: torch.Generator
    saved: torch.Tensor

    @property
    def was_drawn_from(self) -> bool:
        return not torch.equal(self.saved, self.holder.get_state())

    def changes(self) -> Changes:
        return {}

    def restore(self) -> None:
        self.holder.set_state(self.saved)


@dataclass(frozen=True, slots=True, eq=False)
class _Globals:
    """The names that a function rebinds with `global`."""

    holder: dict[str, Any]
    saved: dict[str, Any]

    def changes(self) -> Changes:
        now = {name: self.holder.get(name, _MISSING) for name in self.saved}
        return {name: now[name] for name, before in self.saved.items() if not is_same(before, now[name])}

    def restore(self) -> None:
        for name in self.changes():
            if self.saved[name] is _MISSING:
                del self.holder[name]
            else:
                self.holder[name] = self.saved[name]


@dataclass(frozen=True, slots=True, eq=False)
class _Cell:
    """A name that a function rebinds with `nonlocal`."""

    label: str
    holder: CellType
    saved: Any

    def changes(self) -> Changes:
        now = self.holder.cell_contents
        return {} if is_same(self.saved, now) else {self.label: now}

    def restore(self) -> None:
        self.holder.cell_contents = self.saved


_Record = _Slots | _Items | _Values | _Buffer | _Generator | _Globals | _Cell


@dataclass(slots=True, eq=False)
class State:
    """The state within reach of a step, with what it was before the first forward pass."""

    _records: list[_Record] = field(default_factory=list)
    _known: dict[int, object] = field(default_factory=dict)  # by id; the object too, for an id is given again

    def watch(self, sources: Mapping[str, object]) -> None:
        """Watch what can be reached from values by name."""
        for label, value in reachable(sources):
            if id(value) not in self._known:
                self._known[id(value)] = value
                self._records += _records_of(label, value)

    def watch_module(self, module: nn.Module) -> None:
        """Watch a module that is about to be called."""
        if id(module) not in self._known:
            self.watch({type(module).__name__: module})

    def changes(self) -> Changes:
        """Return what differs from the start; what a random generator drew is no change."""
        return {key: value for record in self._records for key, value in record.changes().items()}

    def restore(self) -> None:
        """Put everything back."""
        for record in self._records:
            record.restore()

    def rewind_generators(self) -> list[torch.Generator]:
        """Put the user's random generators back; return those that were drawn from."""
        drawn = [record for record in self._records if isinstance(record, _Generator) and record.was_drawn_from]
        for record in drawn:
            record.restore()
        return [record.holder for record in drawn]


def _records_of(label: str, value: Any) -> Iterator[_Record]:
    kind = type(value).__name__
    if isinstance(value, nn.Module):
        yield from _of_module(kind, value)
    elif isinstance(value, FunctionType):
        yield from _of_function(value)
    elif isinstance(value, torch.Generator):
        yield _Generator(value, value.get_state())
    elif isinstance(value, torch.Tensor):
        if _can_be_written(value):
            yield _Values(label, value, value.detach().clone())
    elif isinstance(value, CONTAINERS):
        yield _Items(label, value, _copy_of(value))
    else:
        yield _Slots(kind, vars(value), dict(vars(value)))


def _of_function(function: FunctionType) -> Iterator[_Record]:
    stored = {op.argval: op.opname for op in dis.get_instructions(function.__code__) if op.opname in _REBINDS}
    names = [name for name, opname in stored.items() if opname == "STORE_GLOBAL"]
    if names:
        yield _Globals(function.__globals__, {n: function.__globals__.get(n, _MISSING) for n in names})
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name in stored and is_bound(cell):
            yield _Cell(name, cell, cell.cell_contents)


def _of_module(kind: str, module: nn.Module) -> Iterator[_Record]:
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return  # its first call makes it a module of another class
    for name, buffer in module.named_buffers(recurse=False):
        yield _Buffer(module, name, _Values(f"{kind}.{name}", buffer, buffer.detach().clone()))
    if is_users(type(module).__module__):
        shown = {k: v for k, v in vars(module).items() if k not in MODULE_ATTRIBUTES}
        yield _Slots(kind, vars(module), shown, MODULE_ATTRIBUTES)


def _can_be_written(tensor: torch.Tensor) -> bool:
    is_small = tensor.numel() * tensor.element_size() <= _MOST_COPIED_BYTES
    return is_small and not tensor.requires_grad and type(tensor) is torch.Tensor and tensor.layout is torch.strided


def is_same(left: Any, right: Any, depth: int = 0) -> bool:
    """Tell whether two values are the same or say the same; a new object of another kind is another."""
    if left is right:
        return True
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return _is_same_tensor(left, right)
    if isinstance(left, _PLAIN):
        return bool(left == right) or left != left  # noqa: PLR0124 - NaN
    if depth < _DEEPEST and isinstance(left, list | tuple | deque):
        return len(left) == len(right) and all(is_same(a, b, depth + 1) for a, b in zip(left, right, strict=True))
    if depth < _DEEPEST and isinstance(left, dict):
        return left.keys() == right.keys() and all(is_same(left[k], right[k], depth + 1) for k in left)
    return isinstance(left, set) and left == right


def _is_same_tensor(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype or left.device != right.device:
        return False
    if left.layout is not torch.strided or left.device.type == "meta":
        return True
    left, right = left.detach(), right.detach()
    if torch.equal(left, right):
        return True
    if not left.is_floating_point() and not left.is_complex():
        return False
    # On an accelerator sums come out in another order each time.
    tolerance = 0.0 if left.device.type == "cpu" else 100 * torch.finfo(left.dtype).eps
    return torch.allclose(left, right, rtol=tolerance, atol=0.0, equal_nan=True)


@dataclass(frozen=True, slots=True)
class Findings:
    """What two runs on the same samples, the second from where the first had left the state, tell of it."""

    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def findings(first: Changes, second: Changes, *, losses_agree: bool) -> Findings:
    """Compare what one run and a second one behind it have left."""
    again = [k for k in second if not is_alike(first.get(k, _MISSING), second[k])]
    again += [k for k in first if k not in second]
    # The same object both times is a cache: built once, and no trace of a batch.
    kept = [k for k in second if k not in again and first[k] is not second[k]]
    if again:
        return Findings((_sentence(CHANGED, again),), (_sentence(KEPT, kept),) if kept else ())
    if not losses_agree:
        return Findings((CARRIED.format(names=_listed(kept or list(first))),))
    return Findings((), (_sentence(KEPT, kept),) if kept else ())


def is_alike(first: Any, second: Any) -> bool:
    """Tell whether a value that both runs made is the same, as far as can be seen."""
    if is_same(first, second):
        return True
    return type(first) is type(second) and not isinstance(first, (*_PLAIN, torch.Tensor, *CONTAINERS, tuple))


def _sentence(template: str, names: list[str]) -> str:
    is_one = len(names) == 1
    words = ("is", "it changes", "it holds") if is_one else ("are", "they change", "they hold")
    return template.format(names=_listed(names), is_=words[0], it=words[1], hold=words[2])


def _listed(names: Iterable[str]) -> str:
    unique = list(dict.fromkeys(f"`{name}`" for name in names))
    more = len(unique) - _MOST_NAMED
    return ", ".join(unique[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")

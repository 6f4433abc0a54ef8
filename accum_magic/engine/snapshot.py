"""Everything a cell can change through its names, put back: what a check does to the notebook is undone."""

from __future__ import annotations

import dis
import io
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from accum_magic.engine.holders import (
    MISSING,
    Undo,
    cell_undo,
    entries_undo,
    items_undo,
    names_undo,
    set_attributes,
    set_slots,
    slots_of,
    state_undo,
)
from accum_magic.engine.reach import is_bound, is_users, names_of
from accum_magic.engine.tensors import tensor_undo
from accum_magic.engine.undo import RandomStates
from accum_magic.errors import BatchError

if TYPE_CHECKING:
    from types import TracebackType

MOST_OBJECTS = 500_000
_MOST_COPIED_BYTES = 1 << 30  # of arrays and of tensors that train nothing: a data set of many GiB is only watched
_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, torch.dtype, torch.device, torch.Size)
# Objects of these hold threads, sockets or the front end's other half; what they do cannot be undone by attributes.
_LEFT_ALONE = frozenset(
    {"accum_magic", "IPython", "ipykernel", "ipywidgets", "traitlets", "zmq", "tornado", "jupyter_client",
     "matplotlib", "comet_ml", "mlflow", "wandb", "ray", "dask", "pyspark"}
)  # fmt: skip
_OF_TORCH = ("torch.nn", "torch.optim", "torch.amp", "torch.cuda.amp", "torch.utils.data", "torch.distributions")
_OF_STDLIB = ("collections", "types", "argparse", "functools", "random")


@dataclass(frozen=True, slots=True)
class OneShot:
    """An iterator within reach: what it has yielded is gone, so it cannot be put back."""

    label: str
    kind: str


@dataclass(slots=True, eq=False)
class Snapshot:
    """What can be reached from names, as it was; leaving the `with` block puts all of it back, also after an error.

    Identity is kept: the same tensors, lists and dicts hold their old values again. Values on an accelerator are
    kept in the host's memory. `notes` says what was found changed but was too large to be copied.

    Example::

        >>> import torch
        >>> names = {"w": torch.ones(2), "losses": [1.0]}
        >>> with Snapshot(names, ["w", "losses"]):
        ...     _ = names["w"].mul_(3)
        ...     names["losses"].append(2.0)
        ...     names["new"] = 1
        >>> names
        {'w': tensor([1., 1.]), 'losses': [1.0]}

    Raises:
        BatchError: A module's parameters have no values yet, which cannot be put back.

    """

    namespace: dict[str, Any]
    names: Iterable[str]
    """Those of the namespace that are followed; of the others only what they are bound to is put back."""
    functions: Iterable[FunctionType] = ()
    """Functions that run, in whatever module they stand."""
    one_shot: list[OneShot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _undo: list[Undo] = field(default_factory=list)
    _loaders: list[DataLoader[Any]] = field(default_factory=list)
    _always: set[int] = field(default_factory=set)  # ids of tensors that training writes into, however large
    _seen: dict[int, object] = field(default_factory=dict)  # the objects too, for an id is given again
    _budget: int = _MOST_COPIED_BYTES

    def __post_init__(self) -> None:
        states = RandomStates.now()
        self._undo += [states.restore, *_settings(), items_undo(self.namespace)]
        queue: deque[tuple[str, Any]] = deque((n, self.namespace[n]) for n in self.names if n in self.namespace)
        queue.extend((f.__name__, f) for f in self.functions)
        while queue:
            label, value = queue.popleft()
            if isinstance(value, _PLAIN) or id(value) in self._seen:
                continue
            if len(self._seen) >= MOST_OBJECTS:
                self.notes.append(f"more than {MOST_OBJECTS:,} objects are within reach: those behind are not put back")
                break
            self._seen[id(value)] = value
            queue.extend(self._keep(label, value))

    def __enter__(self) -> Self:
        for loader in self._loaders:  # workers that wait for the next epoch keep random states of their own
            vars(loader)["_iterator"] = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.restore()
        except KeyboardInterrupt:
            self.restore()  # half of it is no state that training could go on from
            raise

    def restore(self) -> None:
        """Put everything back; what refuses is named in the notes, and the others come back all the same."""
        for undo in self._undo:
            try:
                undo()
            except Exception as error:  # noqa: BLE001 - whatever an object of another package says
                self.notes.append(f"something could not be put back: {error!r}")
        self.notes[:] = dict.fromkeys(self.notes)

    def _keep(self, label: str, value: Any) -> Iterable[tuple[str, Any]]:
        """Remember one object; return what it leads to. A label tells what the user knows by a name."""
        if isinstance(value, torch.Tensor):
            return self._keep_tensor(label, value)
        if isinstance(value, FunctionType):
            return self._keep_function(value)
        if isinstance(value, MethodType):
            return (label, value.__self__), ("", value.__func__)
        if isinstance(value, partial):
            return [(label, part) for part in (value.func, *value.args, *value.keywords.values())]
        if isinstance(value, type | ModuleType):
            return self._keep_class(value) if is_users(_module_of(value)) else ()
        own = state_undo(value)
        if own is not None:
            self._undo.append(own)
        elif _is_array(value):
            return self._keep_array(label, value)
        elif is_one_shot(value):
            if label:
                self.one_shot.append(OneShot(label, type(value).__name__))
            return ()
        return [*self._items(label, value), *self._attributes(label, value)]

    def _items(self, label: str, value: Any) -> Iterable[tuple[str, Any]]:
        if isinstance(value, dict):
            self._undo.append(items_undo(value))
            return [(label and f"{label}[{k!r}]", v) for k, v in value.items() if not isinstance(v, _PLAIN)]
        if isinstance(value, list | set | deque):
            self._undo.append(entries_undo(value))
        elif not isinstance(value, tuple | frozenset):
            return ()
        return [(label and f"{label}[{i}]", v) for i, v in enumerate(value) if not isinstance(v, _PLAIN)]

    def _attributes(self, label: str, value: Any) -> Iterator[tuple[str, Any]]:
        if not _has_state(value):
            return
        kind = type(value)
        if isinstance(value, DataLoader) and "_iterator" in vars(value):  # accelerate's wrapper says it is one, too
            self._loaders.append(value)
        named = label if is_users(kind.__module__) else ""
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict):
            self._undo.append(items_undo(own))
            inside = {k: v for k, v in own.items() if not (k == "_iterator" and isinstance(value, DataLoader))}
            yield from ((named and f"{named}.{k}", v) for k, v in inside.items())
        slots = slots_of(value)
        if slots:
            self._undo.append(lambda: set_slots(value, slots))
            yield from ((named and f"{named}.{k}", v) for k, v in slots.items() if v is not MISSING)
        tensors = _tensors_of(value)
        self._always.update(map(id, tensors))
        yield from (("", tensor) for tensor in tensors)
        yield "", kind

    def _keep_tensor(self, label: str, tensor: torch.Tensor) -> Iterable[tuple[str, Any]]:
        if is_lazy(tensor):
            raise BatchError(
                "--check: a lazy layer has no parameters yet, and could not be put back to that. Call the model once "
                "on a batch, above this cell."
            )
        trains = tensor.requires_grad or isinstance(tensor, nn.Parameter) or id(tensor) in self._always
        is_copied = trains or self._afford(tensor.numel() * tensor.element_size())
        self._undo.append(tensor_undo(tensor, is_copied=is_copied, missed=lambda: self._miss(label, tensor)))
        attributes = vars(tensor)
        self._undo.append(items_undo(attributes))
        gradient = tensor.grad if tensor.is_leaf else None
        self._always.add(id(gradient))
        return [("", part) for part in (gradient, *attributes.values()) if part is not None]

    def _keep_array(self, label: str, array: Any) -> Iterable[tuple[str, Any]]:
        if not self._afford(array.nbytes) or not array.flags.writeable:
            return ()
        kept = array.copy()

        def undo() -> None:
            if array.tobytes() != kept.tobytes():
                array[...] = kept

        self._undo.append(undo)
        return [(label, part) for part in array.flat] if array.dtype == object else ()

    def _afford(self, nbytes: int) -> bool:
        if nbytes > self._budget:
            return False
        self._budget -= nbytes
        return True

    def _miss(self, label: str, tensor: torch.Tensor) -> None:
        size = f"{tensor.numel() * tensor.element_size() / 2**30:.1f} GiB"
        self.notes.append(f"`{label or 'a tensor'}` ({size}) was written into and is too large to be copied beforehand")

    def _keep_function(self, function: FunctionType) -> Iterator[tuple[str, Any]]:
        own = vars(function)
        self._undo.append(items_undo(own))
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *own.values()):
            yield "", default
        if not is_users(function.__module__ or ""):
            return
        stored = set(_stored_globals(function.__code__))
        if stored:
            self._undo.append(names_undo(function.__globals__, stored))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if is_bound(cell):
                self._undo.append(cell_undo(cell))
                yield name, cell.cell_contents
        for name in names_of(function.__code__):
            if name in function.__globals__:
                yield name, function.__globals__[name]

    def _keep_class(self, value: type | ModuleType) -> Iterator[tuple[str, Any]]:
        """A class or module of the user's own: its attributes, and what its functions reach."""
        kept = {k: v for k, v in vars(value).items() if not (k.startswith("__") and k.endswith("__"))}
        self._undo.append(lambda: set_attributes(value, kept))
        for part in kept.values():
            inner = getattr(part, "__func__", None) or getattr(part, "fget", None) or part
            yield "", inner


def _stored_globals(code: CodeType) -> Iterator[str]:
    yield from (op.argval for op in dis.get_instructions(code) if op.opname == "STORE_GLOBAL")
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _stored_globals(inner)


def _settings() -> list[Undo]:
    """PyTorch's own switches that a cell may turn."""
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    return [lambda: torch.set_default_dtype(dtype), lambda: torch._C._set_grad_enabled(grad)]


def _is_array(value: object) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def is_one_shot(value: object) -> bool:
    """Tell an iterator whose place cannot be put back; one of a class in Python keeps it in its attributes.

    `iter(value)` is not asked: that of a loader draws a seed, that of a user's class may begin anew.
    """
    kind = type(value)
    if isinstance(value, io.IOBase) or not (hasattr(kind, "__next__") and hasattr(kind, "__iter__")):
        return False
    return not isinstance(getattr(value, "__dict__", None), dict) or kind.__module__.startswith("torch.")


def _has_state(value: object) -> bool:
    """Tell an object whose attributes are put back."""
    module = type(value).__module__
    root = module.partition(".")[0]
    if is_users(module):
        return True
    if root == "torch":
        is_iterator = hasattr(type(value), "__next__")  # of a loader: its queues are not only attributes
        return not is_iterator and (module.startswith(_OF_TORCH) or isinstance(value, nn.Module))
    if root in sys.stdlib_module_names:
        return root in _OF_STDLIB
    return root not in _LEFT_ALONE


def _tensors_of(value: object) -> list[torch.Tensor]:
    """Return what training writes into: a module's tensors (a scripted one has them in no attribute), moments."""
    if isinstance(value, nn.Module):
        return [*value.parameters(recurse=False), *value.buffers(recurse=False)]
    if isinstance(value, torch.optim.Optimizer):
        moments = (part for state in value.state.values() for part in state.values())
        return [part for part in moments if isinstance(part, torch.Tensor)]
    return []


def _module_of(value: type | ModuleType) -> str:
    return value.__module__ if isinstance(value, type) else value.__name__

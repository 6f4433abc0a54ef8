"""Out-of-memory errors at a chosen operation of a cell's steps, and what a run of the cell has left."""

from __future__ import annotations

import copy
import gc
import sys
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import accum_magic
from accum_magic.engine import step
from accum_magic.engine.site import Site
from accum_magic.testing import run_accumulated

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from types import CodeType, FrameType

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB."
FORWARD, BACKWARD, BETWEEN, OPTIMIZER = "forward", "backward", "between", "optimizer"
ONCE = "once"  # the backward of what was computed once before the micro-batches


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a cell's steps: `place` is where it runs."""

    number: int  # from 1
    function: torch._ops.OpOverload
    place: str
    rows: int  # of its largest argument

    @property
    def writes(self) -> bool:
        """Whether it writes into one of its arguments."""
        return self.function._schema.is_mutable

    def __str__(self) -> str:
        return f"{self.number} ({self.function}, {self.place})"


class Faults(TorchDispatchMode):
    """Raises an out-of-memory error at operations of `accum_magic.step` and `optimizer.step()`.

    What the probe runs, and the cell's own lines, is neither counted nor disturbed, nor are views, which allocate
    nothing. `when` is "before" an operation, as an allocation fails, or "after" it, as a hook on its result would
    fail: then what it writes is written.
    """

    def __init__(
        self,
        fails: Callable[[Operation], bool] = lambda _: False,
        when: str = "before",
        error: Callable[[], BaseException] = lambda: torch.OutOfMemoryError(OUT_OF_MEMORY),
    ) -> None:
        super().__init__()
        self._fails, self._when, self._error = fails, when, error
        self.operations: list[Operation] = []
        self.raised: list[Operation] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the guard against compiling this mode costs more than the mode, and nothing is compiled here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = None if func.is_view or func.namespace == "profiler" else place_of(sys._getframe(1))
        if place is None:
            return func(*args, **(kwargs or {}))
        rows = max((a.shape[0] for a in args if isinstance(a, torch.Tensor) and a.ndim), default=0)
        done = Operation(len(self.operations) + 1, func, place, rows)
        self.operations.append(done)
        if not self._fails(done):
            return func(*args, **(kwargs or {}))
        self.raised.append(done)
        if self._when == "after":
            func(*args, **(kwargs or {}))
            if done.writes:  # this mode runs below the counting of versions, which an error would skip
                torch.autograd.graph.increment_version(pytree.tree_leaves(args[0]))
        raise self._error()


def fail_at(*numbers: int, when: str = "before", **options: Any) -> Faults:
    """Return faults at these operations; what a rescue runs is counted on, so that later numbers may hit it."""
    return Faults(lambda operation: operation.number in numbers, when, **options)


@cache
def _places() -> dict[CodeType, str | None]:
    wrapper = next(
        c
        for c in torch_optimizer.Optimizer.profile_hook_step.__code__.co_consts
        if getattr(c, "co_name", "") == "wrapper"
    )
    return {
        accum_magic.step.__code__: BETWEEN,
        step._back_propagate.__code__: ONCE,
        Site.measure.__code__: None,
        wrapper: OPTIMIZER,
        torch.autograd.graph._engine_run_backward.__code__: BACKWARD,
        Faulty.run.__code__: None,
    }


def place_of(frame: FrameType | None) -> str | None:
    """Tell in what part of a step a frame runs; None for the probe and the cell's own lines."""
    places, is_backward, is_forward = _places(), False, False
    while frame is not None:
        code = frame.f_code
        if code in places:
            place = places[code]
            if place == BACKWARD:
                is_backward = True
            elif place == BETWEEN:
                return BACKWARD if is_backward else FORWARD if is_forward else BETWEEN
            else:
                return place
        elif code.co_filename == "<accumulated cell>" and code.co_name != "<module>":
            is_forward = True
        frame = frame.f_back
    return None


@dataclass(frozen=True, slots=True)
class Faulty:
    """A cell, and how to make a namespace for it anew."""

    name: str
    cell: str
    make: Callable[[], dict[str, Any]]
    n: int | None = 3
    options: str = ""
    rtol: float = 1e-9
    namespace: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def run(self, faults: Faults, **changed: Any) -> Left:
        """Run the cell anew under the magic."""
        torch.manual_seed(0)
        namespace = {"torch": torch, "nn": nn, "F": nn.functional, "losses": [], "outs": [], **self.make(), **changed}
        self.namespace.clear()
        self.namespace.update(namespace)
        gc.freeze()  # each rescue collects garbage: 0.35 of its 0.45 s went to the objects of the libraries
        with faults:
            run_accumulated(self.cell, self.namespace, self.n, self.options)
        return Left.of(self.namespace)

    def left(self) -> Left:
        """Return what the last run has left, also one that has failed."""
        return Left.of(self.namespace)


@dataclass(frozen=True, slots=True)
class Left:
    """All numbers that a run leaves in a namespace, by where they lie."""

    values: Mapping[str, Any]

    @classmethod
    def of(cls, namespace: Mapping[str, Any]) -> Left:
        """Copy them."""
        kept = dict(_numbers(namespace))
        return cls({**kept, "random state": torch.get_rng_state()})

    def differences(self, other: Left, rtol: float, *, but: Collection[str] = ()) -> list[str]:
        """Name what differs by more than rounding, names of the cell aside that are listed in `but`."""
        names = [n for n in {**self.values, **other.values} if n not in but and name_in_cell(n) not in but]
        found = ((n, self.values.get(n), other.values.get(n)) for n in names)
        return [f"{n}: {_told(a)} in place of {_told(b)}" for n, a, b in found if not _are_close(a, b, rtol)]


def name_in_cell(value: str) -> str:
    """Return which name of the cell a value lies behind."""
    return value.removeprefix("len(").partition(".")[0].partition("[")[0].rstrip(")")


def _numbers(namespace: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in namespace.items():
        if isinstance(value, nn.Module):
            yield from ((f"{name}.{k}", v.detach().clone()) for k, v in value.state_dict().items())
            yield from ((f"{name}.{k}.grad", copy.deepcopy(p.grad)) for k, p in value.named_parameters())
        elif isinstance(value, torch.optim.Optimizer):
            leaves = pytree.tree_leaves(value.state_dict()["state"])
            yield from ((f"{name}.state {i}", copy.deepcopy(leaf)) for i, leaf in enumerate(leaves))
        elif isinstance(value, torch.Tensor):
            yield name, value.detach().clone()
            yield f"{name}.grad", copy.deepcopy(value.grad) if value.is_leaf else None
        elif isinstance(value, int | float):
            yield name, value
        elif isinstance(value, list) and all(isinstance(part, int | float | torch.Tensor) for part in value):
            yield f"len({name})", len(value)
            yield from ((f"{name}[{i}]", copy.deepcopy(part)) for i, part in enumerate(value))


def _are_close(mine: Any, theirs: Any, rtol: float) -> bool:
    if mine is None or theirs is None:
        return mine is theirs
    mine, theirs = (torch.as_tensor(v).detach() for v in (mine, theirs))
    if mine.is_sparse or theirs.is_sparse:
        mine, theirs = mine.to_dense(), theirs.to_dense()
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return False
    if not mine.is_floating_point():
        return torch.equal(mine, theirs)
    largest = float(theirs.abs().max()) if theirs.numel() else 0.0
    return torch.allclose(mine, theirs, rtol=rtol, atol=rtol * min(largest, 1.0), equal_nan=True)


def _told(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    flat = value.detach().to_dense().flatten() if value.is_sparse else value.detach().flatten()
    return f"{[float(f'{v:.6g}') for v in flat[:3].tolist()]}{'…' * (len(flat) > 3)}"

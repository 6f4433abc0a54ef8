"""`optimizer.step()` during a run: tried again where memory ran out before anything had changed, never cut short."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes enums of these: 31 µs per step in place of 1.5
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import CellType, FrameType, FunctionType
from typing import Any

import torch
from torch.optim import Optimizer

from accum_magic.engine.before import Before, Changes
from accum_magic.engine.oom import forget, free_memory, is_out_of_memory
from accum_magic.errors import OptimizerStepError

_Step = Callable[..., Any]
# PyTorch wraps the `step` of each class in `Optimizer.profile_hook_step`, when the first of its instances is made. The
# wrapper is what everything calls: GradScaler, Accelerate, and what a scheduler binds to an instance (it takes the
# wrapper itself, past any attribute of the class). So for the time of a run the function inside of it is exchanged, in
# its closure. That is done by a hook when a step begins, for the wrapper reads the function after its hooks: so classes
# that are first used during the run need no search.
_WRAPPER = Optimizer.profile_hook_step(lambda: None).__code__
_INSIDE = "func"
_LIBRARIES = frozenset({"torch", "accum_magic", "accelerate", "lightning_fabric", "contextlib"})


class _Guarded:
    """Which optimizers' steps are guarded now, and an interrupt that waits for the end of one."""

    kinds: set[type] = set()  # noqa: RUF012 - the state of the process, as the closures are
    own: dict[int, tuple[CellType, _Step]] = {}  # noqa: RUF012 - by the cell's id: it has no hash
    is_deferring = False
    has_interrupt = False


def guard(kind: type[Optimizer]) -> None:
    """Guard the steps of a class of optimizers until `release`."""
    if kind in _Guarded.kinds:
        return
    for owner in kind.__mro__:
        for cell in _cells(vars(owner).get("step")):
            if id(cell) not in _Guarded.own:
                _Guarded.own[id(cell)] = cell, cell.cell_contents
                cell.cell_contents = _guarded(cell.cell_contents)
    _Guarded.kinds.add(kind)


def release() -> None:
    """Let all steps be PyTorch's own again."""
    for cell, own in _Guarded.own.values():
        cell.cell_contents = own
    _Guarded.own.clear()
    _Guarded.kinds.clear()


def _cells(step: object) -> Iterator[CellType]:
    """Yield the cell with the function inside of PyTorch's wrapper; a user may have wrapped that once more."""
    while isinstance(step, FunctionType):
        if step.__code__ is _WRAPPER and _INSIDE in _WRAPPER.co_freevars and step.__closure__:
            yield step.__closure__[_WRAPPER.co_freevars.index(_INSIDE)]
            return
        step = getattr(step, "__wrapped__", None)


def _guarded(step: _Step) -> _Step:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        # a closure holds the training step itself (LBFGS): it is no update that could be tried again, or awaited
        if torch.compiler.is_compiling() or _has_closure(args, kwargs):
            return step(*args, **kwargs)
        handler = _defer_interrupts()
        try:
            result = _tried(step, args, kwargs)
        except BaseException:
            _end_deferral(handler)
            let_interrupt_through()  # no hook will do it
            raise
        _end_deferral(handler)
        return result

    return guarded


def _tried(step: _Step, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    __tracebackhide__ = True
    before = Before(args[0])
    try:
        return step(*args, **kwargs)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        failure = error
    try:
        return _again(step, args, kwargs, before, failure)
    finally:
        del failure  # it knows this frame


def _has_closure(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    return (len(args) > 1 and args[1] is not None) or kwargs.get("closure") is not None


def _again(
    step: _Step, args: tuple[Any, ...], kwargs: Mapping[str, Any], before: Before, failure: BaseException
) -> Any:
    """Try a step that has changed nothing once more, with the memory that is free now; outside of any `except`."""
    __tracebackhide__ = True
    changes = before.changes()
    if not changes.is_nothing:
        raise _told(args[0], changes, "ran out of memory") from failure
    forget(failure)
    before.put_back()
    free_memory()
    try:
        with _without_foreach(args[0]):
            return step(*args, **kwargs)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        second = error
    try:
        changes = before.changes()
        if changes.is_nothing:
            before.put_back()
        raise _told(args[0], changes, "ran out of memory twice") from second
    finally:
        del second


@contextmanager
def _without_foreach(optimizer: Optimizer) -> Iterator[None]:
    """Let a step go parameter by parameter: `foreach` makes temporary tensors as large as all parameters together."""
    groups = [g for g in optimizer.param_groups if "foreach" in g and not g.get("fused")]
    flags = [group["foreach"] for group in groups]
    for group in groups:
        group["foreach"] = False
    try:
        yield
    finally:
        for group, flag in zip(groups, flags, strict=True):
            group["foreach"] = flag


def _told(optimizer: Optimizer, changes: Changes, what: str) -> OptimizerStepError:
    """Return the error that says how far a step got, and what to do."""
    head = f"{_line_of_caller()}`{type(optimizer).__name__}.step()` {what}"
    smaller = (
        "Make room first: an optimizer with less state, `foreach=False`, which needs no temporary copy of all "
        "parameters, or no other tensors on the device"
    )
    if changes.is_nothing:
        return OptimizerStepError(
            f"{head}: no parameter was updated. Parameters, gradients and the optimizer's state are as they were "
            f"before it, so that it can be called again. {smaller}."
        )
    if changes.updated is None:
        reached = (
            "how far it got cannot be told, since fused kernels, lists of unlike tensors and `.data` change tensors "
            "without a trace"
        )
    else:
        reached = f"{changes.updated} of {changes.parameters} parameters were updated"
        if changes.states:
            reached += f", and what the optimizer keeps of {changes.states}"
    return OptimizerStepError(
        f"{head}: {reached}. It is not tried again, since what was updated would be updated twice. Load the model and "
        f"the optimizer from a checkpoint, or make both anew, before you train on. {smaller}."
    )


def _line_of_caller() -> str:
    """Return `line 7: ` for the line that called the step, in the code of the user."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES:
        frame = frame.f_back
    return "" if frame is None else f"line {frame.f_lineno}: "


def _defer_interrupts() -> Any:
    """Let an interrupt wait for the end of a step; return the handler to put back, None where there is none to defer.

    Half of a step is no state that anyone could train on. Python handles signals on its main thread only.
    """
    if _Guarded.is_deferring or threading.current_thread() is not threading.main_thread():
        return None
    handler = _signal.getsignal(_signal.SIGINT)
    if not callable(handler):
        return None
    _Guarded.is_deferring, _Guarded.has_interrupt = True, False
    _signal.signal(_signal.SIGINT, _note_interrupt)
    return handler


def _note_interrupt(*_: object) -> None:
    _Guarded.has_interrupt = True


def _end_deferral(handler: Any) -> None:
    if handler is not None:
        _signal.signal(_signal.SIGINT, handler)
        _Guarded.is_deferring = False


def let_interrupt_through() -> None:
    """Send on an interrupt that came during a step; to be called at its very end, when it has been counted."""
    if _Guarded.has_interrupt and not _Guarded.is_deferring:
        _Guarded.has_interrupt = False
        _signal.raise_signal(_signal.SIGINT)

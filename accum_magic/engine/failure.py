"""A step that fails on few samples: the user's own error, or something that needs the whole batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch.autograd.graph import saved_tensors_hooks

from accum_magic.engine.oom import is_out_of_memory
from accum_magic.engine.undo import Rehearsal
from accum_magic.errors import AccumulateError, BatchError

MEASURED_ON = (
    "accum_magic: {}: out of memory on {} samples, on which accum_magic measures how micro-batches add up, before the "
    "first update. What is left is a smaller model, shorter samples, a lower precision, or activation checkpointing."
)
_LONGEST = 160  # characters of an error that a message repeats
_MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the probe could not run, and all that is needed to find out why."""

    where: str  # the line, and its function
    micro_step: Callable[..., object]
    batch: Mapping[str, Any]
    first: Sequence[Any]
    sizes: tuple[int, ...]
    divided: tuple[str, ...]
    probed: tuple[int, int]
    sources: Mapping[str, object]

    def explain(self, failure: Exception) -> NoReturn:
        """Raise what the user can act upon; nothing of these trials stays.

        Raises:
            BatchError: The step needs the whole batch, or more samples than the probe takes.
            Exception: The plain cell's own.

        """
        __tracebackhide__ = True
        if is_out_of_memory(failure):
            failure.add_note(MEASURED_ON.format(self.where, self.probed[-1]))
            raise failure
        on_first = self._trial(self.first)
        if on_first is None:
            raise BatchError(self._too_few(failure)) from failure
        if is_out_of_memory(on_first) or isinstance(on_first, AccumulateError):
            raise on_first
        on_all = self._trial(self.batch.values(), drops_activations=True)
        if on_all is not None and not is_out_of_memory(on_all):
            # a gradient taken inside the step fails without activations: then the whole batch has told nothing
            raise on_all if _kind(on_all) == _kind(on_first) else on_first
        raise BatchError(self._needs_all(on_first)) from on_first

    def _trial(self, arguments: Any, *, drops_activations: bool = False) -> Exception | None:
        """Run the step forward; on the whole batch without what a backward needs, for that may not fit."""
        drops = saved_tensors_hooks(_nothing, _nothing) if drops_activations else nullcontext()
        __tracebackhide__ = True
        with Rehearsal(self.sources), drops:
            try:
                self.micro_step(*arguments)
            except Exception as error:  # noqa: BLE001 - it is raised, or is the cause of what is raised
                return error
        return None

    def _needs_all(self, error: Exception) -> str:
        return (
            f"{self.where}: the step fails on {self.sizes[0]} of the batch's {sum(self.sizes)} samples "
            f"({_told(error)}), while the plain cell runs on all of them. Something in it needs the whole batch: a "
            f"fixed size, or an operation across samples. {self._split()}, or run the plain cell."
        )

    def _too_few(self, error: Exception) -> str:
        return (
            f"{self.where}: the step fails on {self.probed[0]} or {self.probed[1]} samples ({_told(error)}), on "
            f"which accum_magic measures how micro-batches add up. {self._split()}, let it accept so few, or run "
            "the plain cell."
        )

    def _split(self) -> str:
        names = [f"`{name}`" for name in self.divided[:_MOST_NAMED]]
        more = len(self.divided) - len(names)
        listed = ", ".join(names[:-1]) + (", " if more else " and ") + names[-1] if len(names) > 1 else names[0]
        return f"Split were {listed}{f' and {more} more' if more else ''}: name another batch with --batch"


def _kind(error: Exception) -> tuple[type, str]:
    return type(error), re.sub(r"\d+", "", str(error))


def _told(error: Exception) -> str:
    first_line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return first_line if len(first_line) <= _LONGEST else f"{first_line[:_LONGEST]}…"


def _nothing(_: object) -> torch.Tensor:
    return torch.empty(0)

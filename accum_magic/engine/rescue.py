"""An out-of-memory error in a micro-batch costs that micro-batch: what it has left is taken back, and it is redone.

No gradient is copied beforehand: each parameter's `.grad` and its `_version` tell which were reached, and the
smaller pieces run their backward for the others only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from accum_magic.engine.gradients import SetAside, Versions
from accum_magic.engine.oom import forget, free_memory, is_out_of_memory, leave_out_ours
from accum_magic.engine.split import micro_batch_sizes
from accum_magic.engine.state import State
from accum_magic.engine.undo import RandomStates
from accum_magic.engine.weights import parameters_of

_T = TypeVar("_T")
_REENTRANT = "CheckpointFunctionBackward"  # accumulates a parameter once per checkpoint, so a version tells nothing
Reached = Mapping[int, frozenset[torch.Tensor]]
"""By root, the leaves that a failed attempt on a micro-batch has left its gradient in."""
Progress = tuple[Sequence[torch.Tensor], int, Versions]
"""How far the backward of a micro-batch has come: its roots, which one it runs from, and how all gradients were before.

Behind the last root all gradients are complete.
"""


@dataclass(slots=True, eq=False)
class Recall:
    """What a forward pass changes beside gradients, as it was before; nothing is read where it changes nothing."""

    draws: bool
    changes_state: bool
    generators: Sequence[torch.Generator]
    modules: Sequence[nn.Module]
    sources: Mapping[str, object]
    _random: RandomStates | None = None
    _own: list[torch.Tensor] = field(default_factory=list)
    _state: State | None = None

    def take(self) -> None:
        """Remember how everything is now."""
        if self.draws:
            self._random, self._own = RandomStates.now(), [g.get_state() for g in self.generators]
        if self.changes_state:
            self._state = State()
            for module in self.modules:
                self._state.watch_module(module)
            self._state.watch(self.sources)

    def restore(self) -> None:
        """Put it back."""
        if self._random is not None:
            self._random.restore()
        for generator, state in zip(self.generators, self._own, strict=False):
            generator.set_state(state)
        if self._state is not None:
            self._state.restore()


@dataclass(frozen=True, slots=True, eq=False)
class Failed:
    """In place of a result: what a call that has run out of memory has raised; its frames hold nothing any more."""

    error: Exception


def tried(call: Callable[[], _T]) -> _T | Failed:
    """Return what a call returns, or that it has run out of memory; all other errors rise."""
    __tracebackhide__ = True
    try:
        return call()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        forget(error)
        return Failed(error)


def once_more(call: Callable[[], _T]) -> _T:
    """Call what leaves nothing behind when it fails; once more, with memory freed, where that was want of memory."""
    __tracebackhide__ = True
    result = tried(call)
    if not isinstance(result, Failed):
        return result
    del result  # the error knows its frames, and is still in use as long as it is held
    free_memory()
    return call()


def reached_by(progress: Progress | None, earlier: Reached, gradients: SetAside) -> Reached | None:
    """Return which gradients a failed attempt on a micro-batch has left, beside those of attempts before it.

    None where it cannot be told: it has met a parameter that no micro-batch before it had.
    """
    if progress is None:
        return earlier
    roots, running, versions = progress
    begun = roots[: running + 1]
    if any(leaf.grad is not None and not gradients.knows(leaf) for leaf in parameters_of(begun)):
        return None
    reached = dict(earlier)
    for which in range(len(begun)):
        new = gradients.unfolded() if which < running else gradients.reached(versions)
        reached[which] = reached.get(which, frozenset()) | new
    return reached


def smaller(sizes: Sequence[int], failed: int, most: int, least: int) -> list[tuple[int, ...]]:
    """Cut micro-batches to pieces of `most` samples at most, and of `least` at least; the failed one into two at least.

    >>> smaller((8, 8, 3), 0, 4, 1)
    [(4, 4), (4, 4), (3,)]
    """
    cut = []
    for index, size in enumerate(sizes):
        wanted = max(-(-size // most), 2 if index == failed else 1)
        cut.append(micro_batch_sizes(size, max(1, min(wanted, size // least)), None))
    return cut


def gave_up(error: Exception, where: str, samples: int) -> Exception:
    """Return an error with a note that says what was tried."""
    leave_out_ours(error)
    one = "a single sample" if samples == 1 else f"{samples} samples, and fewer are not possible"
    error.add_note(
        f"accum_magic: {where}: out of memory with {one} at once. Gradients, parameters and optimizer are as they were "
        "before this step. What is left is a smaller model, shorter samples, a lower precision, or activation "
        "checkpointing."
    )
    return error


def is_reentrant(roots: Iterable[torch.Tensor]) -> bool:
    """Whether a backward runs others inside of it, whose gradients may be complete in part."""
    stack: list[Any] = [root.grad_fn for root in roots]
    seen = set(stack)
    while stack:
        node = stack.pop()
        if node is None:
            continue
        if node.name() == _REENTRANT:
            return True
        new = {following for following, _ in node.next_functions} - seen
        seen |= new
        stack += new
    return False

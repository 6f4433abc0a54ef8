"""Learning-rate schedulers that were built for more steps than a windowed run takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

_LENGTHS = ("total_steps", "T_max", "total_iters")
_KEYWORDS = ("num_training_steps", "total_steps")  # of the functions behind Hugging Face's schedules


def planned_steps(scheduler: LRScheduler) -> int | None:
    """Return for how many steps a scheduler was built, None where it has no end.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> planned_steps(torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=100))
    100
    """
    for name in _LENGTHS:
        length = getattr(scheduler, name, None)
        if isinstance(length, int):
            return length
    for function in getattr(scheduler, "lr_lambdas", ()):
        keywords = getattr(function, "keywords", {})
        length = next((keywords[k] for k in _KEYWORDS if k in keywords), None)
        if isinstance(length, int):
            return length
    return None


class ScheduleWatch:
    """Tells of the schedulers of a namespace that will not reach, or have not reached, the end they were built for.

    With `--window` a scheduler that steps once per batch takes N times fewer steps; one that was built in an
    earlier cell from the loader's own length then ends early.
    """

    def __init__(self, namespace: Mapping[str, Any], stepped: frozenset[str], n: int) -> None:
        """Watch the schedulers of a namespace; `stepped` are those that step once per batch in the cell's text."""
        found = {name: value for name, value in namespace.items() if isinstance(value, LRScheduler)}
        self._watched = {name: (s, s.last_epoch) for name, s in found.items() if planned_steps(s) is not None}
        self._stepped, self._n = stepped, n

    def before(self, steps: int | None) -> list[str]:
        """Return what to warn of before the run, where it is known how many steps will come."""
        if steps is None:
            return []
        known = [name for name in self._watched if name in self._stepped]
        return [text for name in known if (text := self._short(name, self._watched[name][1] + steps, "will take"))]

    def after(self) -> list[str]:
        """Return what to say after the run of the schedulers that have stepped in it, wherever they did."""
        stepped = [name for name, (s, start) in self._watched.items() if s.last_epoch > start]
        return [text for name in stepped if (text := self._short(name, self._watched[name][0].last_epoch, "has taken"))]

    def _short(self, name: str, steps: int, verb: str) -> str | None:
        planned = planned_steps(self._watched[name][0])
        if planned is None or planned <= steps:
            return None
        return (
            f"`{name}` was built for {planned:,} steps and {verb} {steps:,}: under --window there is one step per "
            f"{self._n} batches of the loader. Build it for {steps:,} steps, or inside this cell from len(loader)"
        )

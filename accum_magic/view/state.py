"""A snapshot of a run as the panel's page and the result left in the notebook take it: plain JSON."""

from __future__ import annotations

import math
from typing import Any, Protocol

from accum_magic.view.text import Counters

MOST_CELLS = 64  # micro-batches that the strip shows one by one
_MOST_TEXTS = 20
_LONGEST = 600  # characters of one reason or note


class Footprint(Protocol):
    """What the memory is used for, in bytes."""

    @property
    def parameters(self) -> int:
        """Parameters that steps have reached."""

    @property
    def gradients(self) -> int:
        """Their gradients."""

    @property
    def optimizer_state(self) -> int:
        """What optimizers keep."""

    @property
    def activations(self) -> int:
        """What autograd keeps for the backward."""

    @property
    def other(self) -> int:
        """All else."""


class Snapshot(Counters, Protocol):
    """What the panel shows; the engine's snapshot has it."""

    @property
    def state(self) -> str:
        """`running`, `paused`, `stopping` or `ended`."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each micro-batch of the running step."""

    @property
    def is_in_step(self) -> bool:
        """Whether gradients are half made."""

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps taken."""

    @property
    def scheduler_steps(self) -> int:
        """Scheduler steps taken."""

    @property
    def samples(self) -> int:
        """Samples of all steps."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the cell began."""

    @property
    def rescues(self) -> int:
        """Micro-batches that ran out of memory and ran again."""

    @property
    def plain_bytes(self) -> float | None:
        """Estimated peak of the plain cell."""

    @property
    def footprint(self) -> Footprint:
        """What the memory is used for."""

    @property
    def verdict(self) -> str | None:
        """`exact`, `approximate`, or not known yet."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is approximate."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What else there is to know."""

    @property
    def n(self) -> int | None:
        """What the user has asked for since the cell began."""


def state_of(now: Snapshot, how: str) -> dict[str, Any]:
    """Return the state that the page shows; `how` says how the cell asks for its batch to be cut."""
    footprint, loss = now.footprint, now.loss
    is_finite = loss is not None and math.isfinite(loss)
    step = now.steps + 1 if now.is_in_step or not now.steps else now.steps
    asked = now.n or (int(how) if how.isdigit() else None)
    return {
        "state": now.state,
        "step": step if now.total_steps is None else min(step, now.total_steps),
        "total_steps": now.total_steps,
        "micro_batch": now.micro_batch,
        "micro_batches": len(now.sizes),
        "sizes": list(now.sizes) if len(now.sizes) <= MOST_CELLS else None,
        "done": not now.is_in_step and now.steps > 0,
        "optimizer_steps": now.optimizer_steps,
        "scheduler_steps": now.scheduler_steps,
        "samples": now.samples,
        "loss": loss if is_finite else None,
        "loss_text": None if loss is None or is_finite else str(loss),
        "samples_per_s": now.samples_per_s,
        "elapsed_s": now.elapsed_s,
        "remaining_s": now.remaining_s,
        "memory_bytes": now.memory_bytes,
        "peak_bytes": now.peak_bytes,
        "limit_bytes": now.limit_bytes,
        "plain_bytes": now.plain_bytes,
        "footprint": {
            "parameters": footprint.parameters,
            "gradients": footprint.gradients,
            "optimizer_state": footprint.optimizer_state,
            "activations": footprint.activations,
            "other": footprint.other,
        },
        "verdict": now.verdict,
        "reasons": _bounded(now.reasons),
        "notes": _bounded(now.notes),
        "n": asked,
        "how": how,
        "rescues": now.rescues,
    }


def _bounded(texts: tuple[str, ...]) -> list[str]:
    kept = [text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…" for text in texts[:_MOST_TEXTS]]
    return [*kept, f"and {len(texts) - _MOST_TEXTS} more"] if len(texts) > _MOST_TEXTS else kept

"""The gradients of a step: set aside what was there before it, put it back when the step fails."""

from __future__ import annotations

from collections.abc import Iterable

import torch


class SetAside:
    """Gradients as they were before the first micro-batch, by parameter.

    While a step runs its gradients accumulate from None; `finish` adds them to those set aside, so a
    rescaling never touches what the cell had accumulated before, and `restore` undoes a failed step.
    """

    def __init__(self) -> None:
        self._before: dict[torch.Tensor, torch.Tensor | None] = {}

    def take(self, parameters: Iterable[torch.Tensor]) -> None:
        """Set aside the gradients of parameters that are new to this step."""
        before = self._before
        for parameter in parameters:
            if parameter not in before:
                gradient = parameter.grad
                before[parameter] = gradient
                if gradient is not None:
                    parameter.grad = None

    def rescale(self, factor: torch.Tensor | float) -> None:
        """Multiply the gradients of this step."""
        gradients = [p.grad for p in self._before if p.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, factor)

    def finish(self, *, keep: bool) -> None:
        """Add what was set aside to the step's gradients; with `keep`, leave it as it is for `restore`."""
        for parameter, before in self._before.items():
            if before is None:
                continue
            made = parameter.grad
            if made is None:
                parameter.grad = before
            elif keep:
                parameter.grad = before + made
            else:
                parameter.grad = before.add_(made)

    def restore(self) -> None:
        """Put the gradients back as they were before the step."""
        for parameter, before in self._before.items():
            parameter.grad = before

"""The gradients of a step: set aside what was there before it, add up its micro-batches, undo it when it fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from accum_magic.engine.noise import Observed, StepNoise

_NARROWER = 4  # bytes of a float32
HOOKED = "leaves out parameters with a post-accumulate-grad hook, which reads the running sum"
_Kind = tuple[torch.dtype, torch.device, bool]  # the last: whether the noise is taken of it


class SetAside:
    """Gradients as they were before the first micro-batch, by parameter.

    While a step runs its gradients accumulate from None; `finish` adds them to those set aside, so a
    rescaling never touches what the cell had accumulated before, and `restore` undoes a failed step.

    With `grad_dtype` the gradients of parameters narrower than float32 are accumulated in it: a sum in
    bfloat16 stops growing when it is 256 times larger than what is added (DeepSpeed#2768). AdamW takes no
    float32 gradient of a bfloat16 parameter, so `finish` casts each sum back, once. With `noise` every
    gradient is added up here, so that a micro-batch's own can be looked at.

    Whole micro-batches are folded in at their end, by one call per dtype and device. A post-accumulate-grad
    hook would free each gradient at once: measured in bfloat16 on a CPU it saves the gradients of one
    micro-batch (34 MiB in place of 48 MiB, eight linear layers of 1024) and costs more time (27 % over
    accumulating in bfloat16 in place of 20 %; a tiny model 25 % in place of 13 %), and what it has added
    of a micro-batch that fails cannot be taken out again.
    """

    def __init__(self, grad_dtype: torch.dtype | None = None, noise: StepNoise | None = None) -> None:
        self._before: dict[torch.Tensor, torch.Tensor | None] = {}
        self._grad_dtype = grad_dtype
        self._noise = noise
        self._groups: dict[_Kind, list[torch.Tensor]] = {}
        self._sums: dict[torch.Tensor, torch.Tensor] = {}  # of the micro-batches so far
        self._factor: torch.Tensor | float = 1.0
        self._looks = grad_dtype is not None or noise is not None
        self.hooked = False  # whether a parameter was left out of the folding, since a hook reads its running sum
        self.folds = noise is not None

    def take(self, parameters: Iterable[torch.Tensor]) -> None:
        """Set aside the gradients of parameters that are new to this step."""
        before = self._before
        for parameter in parameters:
            if parameter not in before:
                gradient = parameter.grad
                before[parameter] = gradient
                if gradient is not None:
                    parameter.grad = None
                if self._looks:
                    self._choose(parameter)

    def _choose(self, parameter: torch.Tensor) -> None:
        """Decide whether a parameter's gradients are added up here."""
        if self._noise is None and not self._is_widened(parameter):
            return
        if parameter._post_accumulate_grad_hooks:
            self.hooked = True
            return
        is_counted = self._noise is not None and not self._noise.is_input(parameter)
        self._groups.setdefault((parameter.dtype, parameter.device, is_counted), []).append(parameter)
        self.folds = True

    def _is_widened(self, parameter: torch.Tensor) -> bool:
        # `grad_dtype` is what a gradient may have; the user may have widened it already
        narrow = parameter.grad_dtype
        return (
            self._grad_dtype is not None
            and narrow is not None
            and narrow.is_floating_point
            and narrow.itemsize < _NARROWER
        )

    def notes(self, option: str) -> Iterator[str]:
        """Yield where `grad_dtype` had nothing to do, or did not do all."""
        if not any(map(self._is_widened, self._before)):
            yield f"{option} has nothing to do: no parameter is narrower than float32"
        if self.hooked:
            yield f"{option} {HOOKED}"

    def fold(self) -> None:
        """Add the gradients of a complete micro-batch to the sums; `.grad` is None again."""
        groups = [[(p, g) for p in group if (g := p.grad) is not None] for group in self._groups.values()]
        if self._noise is not None:
            counted = zip(self._groups, groups, strict=True)
            self._noise.take([[g for _, g in group] for (*_, counts), group in counted if counts])
        sums = self._sums
        for group in groups:
            known = [(total, g) for p, g in group if (total := sums.get(p)) is not None]
            if known:
                torch._foreach_add_(*zip(*known, strict=True))
            for parameter, gradient in group:
                parameter.grad = None
                if parameter not in sums:
                    wide = self._grad_dtype if self._is_widened(parameter) else None
                    sums[parameter] = gradient if wide is None else gradient.to(wide)

    def observed(self) -> Observed | None:
        """Return what the micro-batches tell of the noise in their gradients; what comes later is none of theirs."""
        noise, self._noise = self._noise, None
        if noise is None:
            return None
        counted = [group for (*_, counts), group in self._groups.items() if counts]
        return noise.observed([[self._sums[p] for p in group if p in self._sums] for group in counted], self._factor)

    def made(self, parameter: torch.Tensor) -> torch.Tensor | None:
        """Return the gradient that this step has made so far, in the dtype that it will have."""
        total = self._sums.get(parameter)
        return parameter.grad if total is None else total.to(parameter.grad_dtype or total.dtype)

    def rescale(self, factor: torch.Tensor | float) -> None:
        """Multiply the gradients of this step."""
        self._factor = factor
        gradients = [*self._sums.values(), *(p.grad for p in self._before if p.grad is not None)]
        if gradients:
            torch._foreach_mul_(gradients, factor)

    def finish(self, *, keep: bool) -> None:
        """Add what was set aside to the step's gradients; with `keep`, leave it as it is for `restore`."""
        if self.folds:
            self.fold()  # what was computed once before the loop has been back-propagated since
        for parameter, before in self._before.items():
            total = self._sums.pop(parameter, None)
            if total is not None:
                parameter.grad = _joined(before, total, parameter, keep=keep)
            elif before is not None:
                made = parameter.grad
                parameter.grad = before if made is None else _joined(before, made, parameter, keep=keep)

    def restore(self) -> None:
        """Put the gradients back as they were before the step."""
        self._sums.clear()
        for parameter, before in self._before.items():
            parameter.grad = before


def _joined(before: torch.Tensor | None, made: torch.Tensor, parameter: torch.Tensor, *, keep: bool) -> torch.Tensor:
    """Return the whole gradient, cast once to the dtype that the parameter's has."""
    if before is None:
        return made.to(parameter.grad_dtype or made.dtype)
    if made.dtype == before.dtype:
        return before + made if keep else before.add_(made)
    total = before + made  # in the wider dtype
    return total.to(before.dtype) if keep else before.copy_(total)

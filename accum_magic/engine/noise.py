"""The gradient noise scale: how many samples a batch needs before its gradient is more signal than noise.

McCandlish et al. 2018, "An Empirical Model of Large-Batch Training" (arXiv 1812.06162), appendix A.1: a
batch of B samples has a gradient of expected squared norm `|G|^2 + S / B`, with `G` the true gradient and
`S` the trace of the samples' covariance. Micro-batches and their whole batch are two sizes, which tell
`S` and `|G|^2` apart; `S / |G|^2` is the noise scale. The samples of a batch are taken to be drawn
independently: those of a loader that does not shuffle resemble each other.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

STEPS_KEPT = 10_000
PENDING_AT_MOST = 100  # steps that are read together: each waits for the device
FEWEST_FOR_JACKKNIFE = 8  # of fewer steps the spread says too little of itself
DROWNED = "--noise: no gradient stands out of its noise in these steps; the noise scale is larger than they can tell"
_NARROWER = 4  # bytes of a float32


@dataclass(frozen=True, slots=True)
class Observed:
    """The norms of one step's gradients; reading them waits for the device."""

    norms: torch.Tensor
    """Of what each micro-batch has added, then of the whole batch's gradient."""
    sizes: Sequence[int]
    factor: torch.Tensor | float
    """What the sum was multiplied with at the end."""
    scale: torch.Tensor | float
    """What the loss was multiplied with."""

    def told(self) -> Told:
        """Return what the step tells, as numbers."""
        factor, scale = float(self.factor), float(self.scale)
        *added, whole = self.norms.tolist()
        if not scale:
            return Told(math.nan, math.nan, 0.0, 0.0, 0)
        return told([(norm * factor / scale) ** 2 for norm in added], (whole / scale) ** 2, self.sizes)


@dataclass(frozen=True, slots=True)
class Told:
    """What one step tells of the noise."""

    noise: float
    """`S`, the trace of the samples' covariance."""
    signal: float
    """`|G|^2`."""
    noise_variance: float
    whole_variance: float
    """Of `|G_B|^2`."""
    samples: int

    @property
    def is_finite(self) -> bool:
        """Whether no gradient has overflowed."""
        return math.isfinite(self.noise) and math.isfinite(self.signal)


@dataclass(frozen=True, slots=True)
class NoiseScale:
    """The noise scale and its standard error, in samples."""

    samples: float
    error: float

    def __str__(self) -> str:
        """Say up to which batch size accumulating pays."""
        return (
            f"the gradient noise scale is about {_number(self.samples)} samples (± {_number(self.error)}): "
            "accumulating pays up to batches of about that size; much larger ones save hardly any update"
        )


class StepNoise:
    """Looks at the gradient of each micro-batch of one step; nothing waits for the device.

    With `c_i` what micro-batch i of `k_i` samples adds to the gradient of a batch of `B`, its own
    gradient is `G_i = c_i B / k_i`, and the batch's is `G_B = sum c_i`. Unbiased, also with unequal
    sizes: `S = (mean |G_i|^2 - |G_B|^2) / (mean 1/k_i - 1/B)` and `|G|^2 = |G_B|^2 - S / B`.
    """

    def __init__(self, sizes: Sequence[int], batch: Mapping[str, Any]) -> None:
        self.sizes = sizes
        self._inputs = {id(leaf) for leaf in pytree.tree_leaves(dict(batch)) if isinstance(leaf, torch.Tensor)}
        self._norms: list[torch.Tensor] = []
        self._scale: torch.Tensor | float | None = None

    def is_input(self, leaf: torch.Tensor) -> bool:
        """Tell a leaf of the batch (an adversarial example, a value computed once) from a parameter."""
        return id(leaf) in self._inputs

    def watched(self, backward: Callable[..., None]) -> Callable[..., None]:
        """Return `backward`, which also tells by what constant the loss is scaled."""

        def call(
            which: int, root: torch.Tensor, gradient: torch.Tensor | None, inputs: Sequence[torch.Tensor] | None = None
        ) -> None:
            __tracebackhide__ = True
            if self._scale is None:
                self._watch_scale(root, gradient)
            backward(which, root, gradient, inputs)

        return call

    def _watch_scale(self, root: torch.Tensor, gradient: torch.Tensor | None) -> None:
        """Note the scale of a GradScaler, which differs between steps; in a step it cancels.

        `scaler.scale(loss)` is the last multiplication of the graph. Accelerate and Fabric scale inside
        their own `backward`: what then arrives at the loss is larger than what it was started from.
        """
        scale = self._scale = _last_factor(root.grad_fn)

        def arrived(found: torch.Tensor) -> None:
            self._scale = scale * (found.detach() if gradient is None else (found / gradient).detach())

        root.register_hook(arrived)  # type: ignore[no-untyped-call]

    def take(self, gradients: Sequence[Sequence[torch.Tensor]]) -> None:
        """Take the norm of one complete micro-batch, its gradients by dtype and device."""
        self._norms.append(norm_of(gradients))

    def resize(self, count: int, sizes: Sequence[int]) -> None:
        """Keep what the first `count` micro-batches have given; from there on they have other sizes."""
        self.sizes = sizes
        del self._norms[count:]

    def observed(self, whole: Sequence[Sequence[torch.Tensor]], factor: torch.Tensor | float) -> Observed | None:
        """Return what a complete step tells; None where no gradient was seen.

        Args:
            whole: The gradients of the whole batch, by dtype and device.
            factor: What they were multiplied with at the end, and the micro-batches' own were not.

        """
        if not any(whole) or len(self._norms) != len(self.sizes):
            return None
        total = norm_of(whole)
        norms = torch.stack([*(norm.to(total) for norm in self._norms), total])
        return Observed(norms, self.sizes, factor, 1.0 if self._scale is None else self._scale)


def told(added: Sequence[float], whole: float, sizes: Sequence[int]) -> Told:
    """Read `S` and `|G|^2` off all `|c_i|^2` and `|G_B|^2`, with bounds of their variances.

    The spread of the `|G_i|^2`, `4 G'CG / k + 2 tr(C^2) / k^2` with the covariance C, has a part that falls
    with the number of micro-batches and one that falls with its square. All of it is taken to fall slowly, so
    that the bounds err on the wide side.
    """
    count, samples = len(sizes), sum(sizes)
    each = [square * (samples / k) ** 2 for square, k in zip(added, sizes, strict=True)]
    width = sum(1 / k for k in sizes) / count - 1 / samples
    noise = (sum(each) / count - whole) / width
    signal = whole - noise / samples
    off = [(g - signal - noise / k) ** 2 * count / (count - 1) for g, k in zip(each, sizes, strict=True)]
    noise_variance = sum(off) / count**2 / width**2
    whole_variance = sum((k / samples) ** 2 * o for k, o in zip(sizes, off, strict=True))
    return Told(noise, signal, noise_variance, whole_variance, samples)


def norm_of(groups: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """Return the norm of gradients, each group of one dtype and device, in float32 at least."""
    parts = [_norm_of_group(group) for group in groups if group]
    if not parts:
        return torch.zeros(())
    if len(parts) == 1:
        return parts[0]
    return _length([part.to(parts[0].device, parts[0].dtype) for part in parts])


def _norm_of_group(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    dense = [g if g.layout is torch.strided else g.coalesce().values() for g in gradients]
    wide = torch.float32 if dense[0].is_floating_point() and dense[0].itemsize < _NARROWER else None
    return _length(torch._foreach_norm(dense, 2, dtype=wide))


def _length(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    length: torch.Tensor = torch.linalg.vector_norm(torch.stack(list(parts)))
    return length


def _last_factor(node: Any) -> torch.Tensor | float:
    """Return the constant of a graph's last multiplication."""
    if node is None or node.name() != "MulBackward0" or node.next_functions[1][0] is not None:
        return 1.0
    factor: torch.Tensor | None = node._saved_other
    return 1.0 if factor is None or factor.numel() != 1 else factor.detach().reshape(())


class Noise:
    """What the last 10,000 steps of a run have told."""

    def __init__(self) -> None:
        self._pending: list[Observed] = []
        self._told: deque[Told] = deque(maxlen=STEPS_KEPT)

    def add(self, observed: Observed) -> None:
        """Keep what a step has shown; once in 100 steps it is read."""
        self._pending.append(observed)
        if len(self._pending) >= PENDING_AT_MOST:
            self._settle()

    def forget(self) -> None:
        """Take back the last step, whose gradients were undone."""
        steps = self._pending or self._told
        if steps:
            steps.pop()

    def _settle(self) -> None:
        self._told.extend(observed.told() for observed in self._pending)
        self._pending.clear()

    def estimate(self) -> NoiseScale | str | None:
        """Return the noise scale, why there is none, or None where nothing was observed.

        Averages `S` and `|G|^2` over the steps; one whose gradients overflowed tells nothing. The error is a
        jackknife over the steps; of fewer than 8 it is the delta method's, from the spread over the
        micro-batches of each.
        """
        self._settle()
        steps = [step for step in self._told if step.is_finite]
        if not steps:
            return None
        noise, signal = (math.fsum(values) for values in ([s.noise for s in steps], [s.signal for s in steps]))
        if signal <= 0:
            return DROWNED
        scale = max(noise, 0.0) / signal
        if len(steps) >= FEWEST_FOR_JACKKNIFE:
            return NoiseScale(scale, _jackknife(steps, noise, signal))
        return NoiseScale(scale, _delta(steps, scale, signal))


def _jackknife(steps: Sequence[Told], noise: float, signal: float) -> float:
    count = len(steps)
    left_out = [(noise - s.noise) / (signal - s.signal) for s in steps if signal != s.signal]
    mean = math.fsum(left_out) / len(left_out)
    return math.sqrt((count - 1) / count * math.fsum((value - mean) ** 2 for value in left_out))


def _delta(steps: Sequence[Told], scale: float, signal: float) -> float:
    """The error of `sum S - scale sum |G|^2`, in terms of `S` and `|G_B|^2`, over `sum |G|^2`."""
    variances = ((1 + scale / s.samples) ** 2 * s.noise_variance + scale**2 * s.whole_variance for s in steps)
    return math.sqrt(math.fsum(variances)) / signal


def _number(value: float) -> str:
    least = 10
    return f"{value:,.0f}" if value >= least else f"{value:.2g}"

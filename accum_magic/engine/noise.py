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

OBSERVATIONS_KEPT = 10_000
FEWEST_FOR_JACKKNIFE = 8  # of fewer steps the spread says too little of itself
DROWNED = "--noise: no gradient stands out of its noise in these steps; the noise scale is larger than they can tell"
_NARROWER = 4  # bytes of a float32


@dataclass(frozen=True, slots=True)
class Observed:
    """What one step tells: `S`, `|G|^2` and the variances of `S` and of `|G_B|^2`, as one tensor on the device."""

    values: torch.Tensor
    samples: int


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
        self._sizes = sizes
        self._inputs = {id(leaf) for leaf in pytree.tree_leaves(dict(batch)) if isinstance(leaf, torch.Tensor)}
        self._norms: list[torch.Tensor] = []
        self._scale: torch.Tensor | float | None = None

    def is_input(self, leaf: torch.Tensor) -> bool:
        """Tell a leaf of the batch (an adversarial example, a value computed once) from a parameter."""
        return id(leaf) in self._inputs

    def watched(self, backward: Callable[..., None]) -> Callable[..., None]:
        """Return `backward`, which also tells by what constant the loss is scaled."""

        def call(which: int, root: torch.Tensor, gradient: torch.Tensor | None) -> None:
            __tracebackhide__ = True
            if self._scale is None:
                self._watch_scale(root, gradient)
            backward(which, root, gradient)

        return call

    def _watch_scale(self, root: torch.Tensor, gradient: torch.Tensor | None) -> None:
        """Note the scale of a GradScaler, which differs between steps; in a step it cancels.

        `scaler.scale(loss)` is the last multiplication of the graph. Accelerate and Fabric scale inside
        their own `backward`: what then arrives at the loss is larger than what it was started from.
        """
        scale = self._scale = _last_factor(root.grad_fn)

        def arrived(found: torch.Tensor) -> None:
            given = torch.ones_like(found) if gradient is None else gradient
            self._scale = scale * (found / given).detach().reshape(())

        root.register_hook(arrived)  # type: ignore[no-untyped-call]

    def take(self, gradients: Sequence[Sequence[torch.Tensor]]) -> None:
        """Take the norm of one complete micro-batch, its gradients by dtype and device."""
        self._norms.append(_norm(gradients))

    def observed(self, whole: Sequence[Sequence[torch.Tensor]], factor: torch.Tensor | float) -> Observed | None:
        """Return what a complete step tells; None where no gradient was seen.

        Args:
            whole: The gradients of the whole batch, by dtype and device.
            factor: What they were multiplied with at the end, and the micro-batches' own were not.

        """
        if not any(whole) or len(self._norms) != len(self._sizes):
            return None
        total = _norm(whole)
        scale = 1.0 if self._scale is None else self._scale
        norms = torch.stack([norm.to(total.device) for norm in self._norms]) * factor
        if total.device.type != "mps":  # which has no float64
            total, norms = total.double(), norms.double()
        told = _told((norms / scale).square(), (total / scale).square(), self._sizes)
        return Observed(torch.stack(told), sum(self._sizes))


def _told(added: torch.Tensor, whole: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """Return `S`, `|G|^2` and bounds of the variances of `S` and `|G_B|^2`, from all `|c_i|^2` and `|G_B|^2`.

    The spread of the `|G_i|^2`, `4 G'CG / k + 2 tr(C^2) / k^2` with the covariance C, has a part that falls
    with the number of micro-batches and one that falls with its square. All of it is taken to fall slowly, so
    that the bounds err on the wide side.
    """
    count, samples = len(sizes), sum(sizes)
    k = torch.tensor(sizes, dtype=added.dtype, device=added.device)
    each = added * (samples / k).square()
    width = sum(1 / size for size in sizes) / count - 1 / samples
    noise = (each.mean() - whole) / width
    signal = whole - noise / samples
    off = (each - signal - noise / k).square() * (count / (count - 1))
    return [noise, signal, off.mean() / count / width**2, ((k / samples).square() * off).sum()]


def _norm(groups: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
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
    """The observations of a run's last 10,000 steps."""

    def __init__(self) -> None:
        self._observed: deque[Observed] = deque(maxlen=OBSERVATIONS_KEPT)

    def add(self, observed: Observed) -> None:
        """Keep what a step has told."""
        self._observed.append(observed)

    def forget(self) -> None:
        """Take back the last step, whose gradients were undone."""
        if self._observed:
            self._observed.pop()

    def rows(self) -> list[tuple[float, ...]]:
        """Return the observations as numbers; a step that overflowed has none."""
        by_device: dict[torch.device, list[torch.Tensor]] = {}
        for one in self._observed:
            by_device.setdefault(one.values.device, []).append(one.values)
        numbers = [row for values in by_device.values() for row in torch.stack(values).tolist()]
        sizes = [float(one.samples) for device in by_device for one in self._observed if one.values.device == device]
        rows = zip(numbers, sizes, strict=True)
        return [(*row, size) for row, size in rows if all(map(math.isfinite, row))]

    def estimate(self) -> NoiseScale | str | None:
        """Return the noise scale, why there is none, or None where nothing was observed.

        Averages `S` and `|G|^2` over the steps. The error is a jackknife over the steps; of fewer than 8 it
        is the delta method's, from the spread over the micro-batches of each.
        """
        rows = self.rows()
        if not rows:
            return None
        noise, signal = (math.fsum(row[i] for row in rows) for i in (0, 1))
        if signal <= 0:
            return DROWNED
        scale = max(noise, 0.0) / signal
        error = _jackknife(rows) if len(rows) >= FEWEST_FOR_JACKKNIFE else _delta(rows, scale, signal)
        return NoiseScale(scale, error)


def _jackknife(rows: Sequence[tuple[float, ...]]) -> float:
    count = len(rows)
    noise, signal = (math.fsum(row[i] for row in rows) for i in (0, 1))
    left_out = [(noise - row[0]) / (signal - row[1]) for row in rows if signal != row[1]]
    mean = math.fsum(left_out) / len(left_out)
    return math.sqrt((count - 1) / count * math.fsum((value - mean) ** 2 for value in left_out))


def _delta(rows: Sequence[tuple[float, ...]], scale: float, signal: float) -> float:
    """`sum S - scale sum |G|^2`, whose error is that of the ratio, in terms of `S` and `|G_B|^2`."""
    variances = ((1 + scale / samples) ** 2 * of_noise + scale**2 * of_whole
                 for _, _, of_noise, of_whole, samples in rows)  # fmt: skip
    return math.sqrt(math.fsum(variances)) / signal


def _number(value: float) -> str:
    least = 10
    return f"{value:,.0f}" if value >= least else f"{value:.2g}"

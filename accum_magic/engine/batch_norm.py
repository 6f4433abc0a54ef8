"""BatchNorm's running statistics: they move once per batch, by the pooled moments of its micro-batches.

N forward passes on micro-batches would move them N times, each by the moments of a part (pytorch#46516,
GradCache#15). So every call of a layer runs on copies of its buffers, and the true ones are moved when the step is
complete, by as many updates as the plain cell makes: one, or as many as the layer has calls per forward pass.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.checkpoint import _StopRecomputationError

if TYPE_CHECKING:
    from types import TracebackType

    from torch.utils.hooks import RemovableHandle

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
Buffers = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """What one call on one micro-batch has made of copies of a layer's buffers."""

    mean: torch.Tensor
    var: torch.Tensor
    values: int  # per channel, that the moments were taken over
    is_counted: bool  # it moved `num_batches_tracked` as well


class RunningStatistics:
    """The BatchNorm layers of one step, while its micro-batches run.

    Example::

        >>> layer, x = torch.nn.BatchNorm1d(3), torch.randn(8, 3)
        >>> with RunningStatistics() as statistics:
        ...     statistics.find_layers()
        ...     for statistics.micro_batch, piece in enumerate(x.split(4)):
        ...         out = layer(piece)
        >>> layer.num_batches_tracked.item()
        0
        >>> statistics.update()
        >>> layer.num_batches_tracked.item()
        1
    """

    def __init__(self) -> None:
        self.micro_batch = 0
        """Which micro-batch the calls of now belong to; a layer's calls on the same one are told by their order."""
        self._layers: dict[nn.Module, _Layer] = {}
        self._seen: set[nn.Module] = set()
        self._finder: RemovableHandle | None = None
        self._thread = threading.get_ident()
        self._paused = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.all_found()
        for layer in self._layers.values():
            layer.release()

    def find_layers(self) -> None:
        """Take over the layers within the modules that are called from now on, until `all_found`."""
        if self._finder is None:
            self._finder = register_module_forward_pre_hook(self._find)

    def all_found(self) -> None:
        """Look for no more layers: a hook on all modules costs some microseconds per call."""
        if self._finder is not None:
            self._finder.remove()
            self._finder = None

    def _find(self, module: nn.Module, _args: Any) -> None:
        # A compiled graph runs no hooks later on; replicas of `nn.DataParallel` are called by threads of their own.
        if torch.compiler.is_compiling() or module in self._seen or threading.get_ident() != self._thread:
            return
        for child in module.modules():
            if child not in self._seen:
                self._seen.add(child)
                if isinstance(child, _BatchNorm):
                    self._layers[child] = _Layer(child, self)
        if module in self._layers:  # the hooks of this very call were listed before
            self._layers[module].before(module, _args)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the calls of this thread out of account: a recomputation in the backward pass, or a rehearsal."""
        before = self.is_paused
        self._paused.value = True
        try:
            yield
        finally:
            self._paused.value = before

    @property
    def is_paused(self) -> bool:
        """Whether this thread's calls are left out of account."""
        return getattr(self._paused, "value", False)

    def forget(self) -> None:
        """Leave all calls so far out of account: they are made again."""
        for layer in self._layers.values():
            layer.calls.clear()

    def update(self) -> None:
        """Move the true buffers, in place; all in one call, so that an interrupt leaves none behind."""
        pairs = [pair for layer in self._layers.values() for pair in layer.moved()]
        if pairs:
            # Past the version counters, as BatchNorm itself writes: an earlier graph may have saved these buffers.
            torch._foreach_copy_([true.data for true, _ in pairs], [new for _, new in pairs])


class _Layer:
    """One BatchNorm layer during a step: copies of its buffers go in before a call, the true ones after it."""

    def __init__(self, module: _BatchNorm, statistics: RunningStatistics) -> None:
        self._module = module
        self._statistics = statistics
        self.calls: dict[int, list[_Call]] = {}  # by micro-batch, in their order
        self._true: Buffers | None = None
        self._out: Buffers | None = None  # the true buffers while a call runs
        self._tracked: torch.Tensor | None = None  # the copy of the counter that it has then
        self._version = 0  # of that copy before the call
        self._handles = (
            module.register_forward_pre_hook(self.before),
            module.register_forward_hook(self._after, prepend=True, always_call=True),
        )

    def release(self) -> None:
        """Take the hooks away; a call that was interrupted gets its true buffers back."""
        for handle in self._handles:
            handle.remove()
        self._put_back()

    def before(self, module: nn.Module, _args: Any) -> None:
        """Let a call find copies, which hold what the true buffers hold: a forward of the user's own may read them."""
        if torch.compiler.is_compiling() or module is not self._module or self._out is not None:
            return
        if not (module.training and module.track_running_stats):
            return
        own = module._buffers
        mean, var, tracked = own["running_mean"], own["running_var"], own["num_batches_tracked"]
        if mean is None or var is None:
            return
        self._out = mean, var, tracked
        if tracked is not None and (self._tracked is None or module.momentum is None):
            self._tracked = tracked.clone()  # its value is read for a cumulative average only
        own["running_mean"], own["running_var"] = mean.clone(), var.clone()
        own["num_batches_tracked"] = self._tracked
        self._version = 0 if self._tracked is None else self._tracked._version

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if module is not self._module or self._out is None:
            return
        own = module._buffers
        mean, var, tracked = own["running_mean"], own["running_var"], own["num_batches_tracked"]
        self._true = self._out
        self._put_back()
        has_failed = output is None and not isinstance(sys.exception(), _StopRecomputationError)
        if has_failed or mean is None or var is None or self._statistics.is_paused:
            return
        is_counted = tracked is None or tracked is not self._tracked or tracked._version > self._version
        values = (args[0] if args else output).numel() // mean.numel()
        self.calls.setdefault(self._statistics.micro_batch, []).append(_Call(mean, var, values, is_counted))

    def _put_back(self) -> None:
        if self._out is not None:
            self._module._buffers.update(zip(_BUFFERS, self._out, strict=True))
            self._out = None

    def moved(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the true buffers, each with what the updates of the plain cell make of it."""
        rounds = list(_rounds(list(self.calls.values())))
        if self._true is None or not rounds:
            return []
        mean, var, tracked = self._true
        momentum = self._module.momentum
        seen = float(tracked) if momentum is None and tracked is not None else 0.0
        # `momentum=None` is the cumulative average; without a counter it never moves.
        shares = [
            momentum if momentum is not None else 0.0 if tracked is None else 1.0 / (seen + ordinal + 1.0)
            for ordinal in range(len(rounds))
        ]
        old = new = _wide(torch.stack([mean, var]))
        counted = 0
        for calls, share in zip(rounds, shares, strict=True):
            counted += calls[0].is_counted
            if share and (calls[0].is_counted or _moved(calls, mean, var)):
                new = torch.lerp(new, _pooled(calls, old, shares[0]), share)
        found = [(mean, new[0]), (var, new[1])] if new is not old else []
        return found if tracked is None or not counted else [*found, (tracked, tracked + counted)]


def _rounds(rows: Sequence[Sequence[_Call]]) -> Iterator[list[_Call]]:
    """Yield the first calls of all micro-batches, then the second ones; a layer may be called more often on some."""
    for ordinal in range(max(map(len, rows), default=0)):
        yield [row[ordinal] for row in rows if len(row) > ordinal]


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def _moved(calls: Sequence[_Call], mean: torch.Tensor, var: torch.Tensor) -> bool:
    """Whether a forward that does not count its calls has moved the statistics: a frozen layer's own does not."""
    return any(not (torch.equal(call.mean, mean) and torch.equal(call.var, var)) for call in calls)


def _pooled(calls: Sequence[_Call], old: torch.Tensor, share: float) -> torch.Tensor:
    """Return mean and unbiased variance of all values that the calls saw, from copies that moved by `share`.

    The moments of a part are `old + (copy - old) / share`. Those of the whole: Chan, Golub and LeVeque,
    "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    counts = [call.values for call in calls]
    total = sum(counts)
    freedom = max(total - 1, 1)
    weights = torch.tensor(
        [[n / total for n in counts], [(n - 1) / freedom for n in counts], [n / freedom for n in counts]],
        dtype=old.dtype,
        device=old.device,
    )
    means = old[0] + (_wide(torch.stack([call.mean for call in calls])) - old[0]) / share
    variances = old[1] + (_wide(torch.stack([call.var for call in calls])) - old[1]) / share
    mean = weights[0] @ means
    return torch.stack([mean, weights[1] @ variances + weights[2] @ (means - mean).square()])

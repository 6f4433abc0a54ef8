"""BatchNorm's running statistics: they move once per batch, by the pooled moments of its micro-batches.

N forward passes on micro-batches would move them N times, each by the moments of a part (pytorch#46516,
GradCache#15). So every call of a layer runs on copies of its buffers, and the true ones are moved when the step is
complete, by as many updates as the plain cell makes: one, or as many as the layer has calls per forward pass.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.checkpoint import _StopRecomputationError

if TYPE_CHECKING:
    from types import TracebackType

    from torch.utils.hooks import RemovableHandle

_PAUSED = threading.local()  # of no step alone: one made for each step cost more than all else here
_COPIES = 8  # made in one operation, in place of two per call
Buffers = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


class _Call(NamedTuple):
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

    def take_over(self, modules: Iterable[nn.Module]) -> None:
        """Take over the layers within some modules."""
        for module in modules:
            for child in module.modules():
                if child not in self._seen:
                    self._seen.add(child)
                    if isinstance(child, _BatchNorm):
                        self._layers[child] = _Layer(child, self)

    def all_found(self) -> None:
        """Look for no more layers: a hook on all modules costs some microseconds per call."""
        if self._finder is not None:
            self._finder.remove()
            self._finder = None

    def _find(self, module: nn.Module, _args: Any) -> None:
        # A compiled graph runs no hooks later on; replicas of `nn.DataParallel` are called by threads of their own.
        if torch.compiler.is_compiling() or module in self._seen or threading.get_ident() != self._thread:
            return
        self.take_over([module])
        if module in self._layers:  # the hooks of this very call were listed before
            self._layers[module].before(module, _args)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the calls of this thread out of account: a recomputation in the backward pass, or a rehearsal."""
        before = self.is_paused
        _PAUSED.value = True
        try:
            yield
        finally:
            _PAUSED.value = before

    @property
    def is_paused(self) -> bool:
        """Whether this thread's calls are left out of account."""
        return getattr(_PAUSED, "value", False)

    def forget(self) -> None:
        """Leave all calls so far out of account: they are made again."""
        for layer in self._layers.values():
            layer.calls.clear()

    def forget_from(self, micro_batch: int) -> None:
        """Leave the calls on one micro-batch and those behind it out of account."""
        for layer in self._layers.values():
            layer.calls = {index: calls for index, calls in layer.calls.items() if index < micro_batch}

    def update(self) -> None:
        """Move the true buffers, in place; all in one call, so that an interrupt leaves none behind."""
        if not self._layers:
            return
        moves = [move for layer in self._layers.values() if (move := layer.move()) is not None]
        for ordinal in range(max((len(move.rounds) for move in moves), default=0)):
            for group in _alike(moves, ordinal):
                _advance(group, ordinal)
        pairs = [pair for move in moves for pair in move.pairs()]
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
        self._copies: list[torch.Tensor] = []  # of mean and variance in turn, for calls to come
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
        if not self._copies:
            block = torch.stack([mean, var]).repeat(_COPIES, 1)
            self._copies.extend(block.unbind())
        own["running_var"], own["running_mean"] = self._copies.pop(), self._copies.pop()
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
            own = self._module._buffers
            own["running_mean"], own["running_var"], own["num_batches_tracked"] = self._out
            self._out = None

    def move(self) -> _Move | None:
        """Return how its buffers are to be moved, None where no call has moved a copy."""
        rows = list(self.calls.values())
        if self._true is None or not rows:
            return None
        mean, var, tracked = self._true
        # The first calls of all micro-batches, then the second ones; on some it may be called more often.
        ordinals = range(max(map(len, rows)))
        rounds = [[row[ordinal] for row in rows if len(row) > ordinal] for ordinal in ordinals]
        rounds = [calls for calls in rounds if calls[0].is_counted or _has_moved(calls, mean, var)]
        momentum = self._module.momentum
        if momentum is None:  # the cumulative average; without a counter it never moves
            seen = math.inf if tracked is None else float(tracked)
            shares = [1.0 / (seen + ordinal + 1.0) for ordinal in range(len(rounds))]
        else:
            shares = [momentum] * len(rounds)
        return _Move(self._true, rounds, shares)


@dataclass(slots=True, eq=False)
class _Move:
    """The updates of one layer: for each the calls that make it up, and the share of the new in it."""

    true: Buffers
    rounds: list[list[_Call]]
    shares: list[float]
    new: torch.Tensor | None = None  # (2, C), mean and variance, in double precision

    def pairs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the true buffers, each with what it is to hold."""
        mean, var, tracked = self.true
        found = [] if self.new is None else [(mean, self.new[0]), (var, self.new[1])]
        counted = sum(calls[0].is_counted for calls in self.rounds)
        return found if tracked is None or not counted else [*found, (tracked, tracked + counted)]


def _has_moved(calls: Sequence[_Call], mean: torch.Tensor, var: torch.Tensor) -> bool:
    """Whether a forward that does not count its calls has moved the statistics: a frozen layer's own does not."""
    return any(not (torch.equal(call.mean, mean) and torch.equal(call.var, var)) for call in calls)


def _alike(moves: Sequence[_Move], ordinal: int) -> Iterable[list[_Move]]:
    """Group the layers whose numbers are alike but for the channels: those of one resolution, mostly."""
    groups: dict[object, list[_Move]] = {}
    for move in moves:
        if len(move.rounds) > ordinal and move.shares[ordinal]:
            calls, (mean, var, _) = move.rounds[ordinal], move.true
            counts = tuple(call.values for call in calls)
            key = counts, move.shares[0], move.shares[ordinal], move.new is None, mean.device, mean.dtype, var.dtype
            groups.setdefault(key, []).append(move)
    return groups.values()


def _advance(group: Sequence[_Move], ordinal: int) -> None:
    """Make one update of layers that are alike, their channels side by side."""
    first = group[0]
    old = _wide(torch.cat([move.true[0] for move in group] + [move.true[1] for move in group])).view(2, -1)
    # micro-batch by micro-batch, and within one layer by layer
    calls = list(chain.from_iterable(zip(*(move.rounds[ordinal] for move in group), strict=True)))
    copies = _wide(torch.cat([call.mean for call in calls] + [call.var for call in calls]))
    counts = tuple(call.values for call in first.rounds[ordinal])
    pooled = _pooled(old, copies.view(2, len(counts), -1), counts, first.shares[0])
    earlier = [move.new for move in group if move.new is not None]
    new = torch.lerp(torch.cat(earlier, 1) if earlier else old, pooled, first.shares[ordinal])
    channels = [move.true[0].numel() for move in group]
    for move, part in zip(group, torch.split_with_sizes(new, channels, 1), strict=True):
        move.new = part


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def _pooled(old: torch.Tensor, copies: torch.Tensor, counts: tuple[int, ...], share: float) -> torch.Tensor:
    """Return mean and unbiased variance (2, C) of all values, from copies (2, N, C) that moved from `old` by `share`.

    The moments of a part are `old + (copy - old) / share`. Those of the whole: Chan, Golub and LeVeque,
    "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    means, variances = torch.lerp(old.unsqueeze(1), copies, 1.0 / share).unbind()
    weights = _weights(counts, old.dtype, old.device)
    mean = weights[0] @ means
    within, between = weights[1] @ variances, weights[2] @ (means - mean).square_()
    return torch.stack([mean, within.add_(between)])


@lru_cache(maxsize=64)
def _weights(counts: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the weights of means, variances and squared distances; remembered, for a copy to a device waits for it."""
    total = sum(counts)
    freedom = max(total - 1, 1)
    rows = [[n / total for n in counts], [(n - 1) / freedom for n in counts], [n / freedom for n in counts]]
    return torch.tensor(rows, dtype=dtype, device=device)

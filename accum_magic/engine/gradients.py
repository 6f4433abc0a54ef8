"""The gradients of a step: set aside what was there before it, add up its micro-batches, undo it when it fails."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import attrgetter, itemgetter

import torch

from accum_magic.engine.noise import Observed, StepNoise

_NARROWER = 4  # bytes of a float32
HOOKED = "leaves out parameters with a post-accumulate-grad hook, which reads the running sum"
PARTED = (
    "parameters that are added as views share one gradient in PyTorch; here each has its own, so what changes "
    "gradients in place, such as clipping, changes each once, in the plain cell twice"
)
_gradient, _place = attrgetter("grad"), itemgetter(0, 1)
_VERSION, _NO_VERSION = repeat("_version"), repeat(0)  # for a `map`: before every backward, of all parameters
Versions = tuple[Sequence[torch.Tensor | None], Sequence[int]]
"""Of all parameters in their order, the gradients, and how often each has been written into."""
_Span = tuple[int, int, int, torch.Tensor | None]  # a storage, from which byte of it to which, whose
_Kind = tuple[torch.dtype | None, torch.device, bool]  # the last: whether the noise is taken of it


@dataclass(slots=True)
class _Sums:
    """What the micro-batches so far have added up to, for parameters of one dtype on one device."""

    wide: torch.dtype | None
    """What they are added up in, where that is not the gradient's own dtype."""
    parameters: list[torch.Tensor] = field(default_factory=list)
    totals: list[torch.Tensor | None] = field(default_factory=list)

    def add(self, parameter: torch.Tensor) -> None:
        self.parameters.append(parameter)
        self.totals.append(None)

    def fold(self, made: Sequence[torch.Tensor | None]) -> None:
        """Add the gradients of one micro-batch; `.grad` is None again."""
        pairs = [(t, g) for t, g in zip(self.totals, made, strict=True) if t is not None and g is not None]
        new: dict[int, torch.Tensor] = {}
        if len(pairs) < len(made):  # what takes memory comes first: if it fails, nothing has been added
            for index, (total, gradient) in enumerate(zip(self.totals, made, strict=True)):
                if total is None and gradient is not None:
                    new[index] = gradient if self.wide is None else gradient.to(self.wide)
        if pairs:
            torch._foreach_add_(*zip(*pairs, strict=True))
        for parameter in self.parameters:
            parameter.grad = None
        for index, total in new.items():
            self.totals[index] = total

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for parameter, total in zip(self.parameters, self.totals, strict=True):
            if total is not None:
                yield parameter, total


def _bytes_of(tensor: torch.Tensor) -> tuple[int, int, int]:
    """Return the address of a tensor's storage, and where in it the tensor lies."""
    begin = int(tensor.storage_offset()) * tensor.element_size()
    return tensor.untyped_storage().data_ptr(), begin, begin + int(tensor.nbytes)


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
        self._has_before = False  # whether any of them is a gradient
        self._grad_dtype = grad_dtype
        self._noise = noise
        self._sums: dict[_Kind, _Sums] = {}
        self._folded: set[torch.Tensor] = set()
        self._last: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None  # what is to be added at the very end
        self._factor: torch.Tensor | float = 1.0
        self._looks = grad_dtype is not None or noise is not None
        self.may_share = False
        """Whether a backward may leave gradients in memory that is not theirs alone: `part` tells them apart."""
        self.has_parted = False
        """Whether it has parted some that leaves shared with each other."""
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
                    self._has_before, parameter.grad = True, None
                self.may_share = True
                if self._looks:
                    self._choose(parameter)

    def part(self, start: torch.Tensor | None) -> None:
        """Give each leaf a gradient of its own, after a backward from `start`; its first one may be another's as well.

        In `(a.view(3, 1) + b.view(3, 1)) * x` both leaves take over one gradient, without a copy, and the next backward
        would add to it twice (torch 2.13, `AccumulateGrad`); so would it to what a backward has started from.
        """
        spans: list[_Span] = [] if start is None else [(*_bytes_of(start), None)]
        self.may_share = False
        for leaf in self._before:
            gradient = leaf.grad
            if gradient is None:
                self.may_share = True
            elif gradient.layout is torch.strided:
                spans.append((*_bytes_of(gradient), leaf))
        shared: list[torch.Tensor] = []
        storage, until, has_leaf = 0, 0, False
        for place, begin, end, owner in sorted(spans, key=_place):
            if place != storage or begin >= until or not place:  # 0: a wrapper, which does not tell
                storage, until, has_leaf = place, 0, False
            elif owner is not None:
                shared.append(owner)
                self.has_parted = self.has_parted or has_leaf
            until, has_leaf = max(until, end), has_leaf or owner is not None
        if shared:
            self._part(shared)

    def _part(self, leaves: Sequence[torch.Tensor]) -> None:
        gradients = [leaf.grad for leaf in leaves]
        self._clear(leaves)  # if memory runs out, it is as if the backward had not come to them
        own = [None if gradient is None else gradient.clone() for gradient in gradients]
        for leaf, gradient in zip(leaves, own, strict=True):
            leaf.grad = gradient

    def _clear(self, leaves: Iterable[torch.Tensor]) -> None:
        """Let the next backward make new gradients, which leaves may share again."""
        for leaf in leaves:
            leaf.grad, self.may_share = None, True

    def _choose(self, parameter: torch.Tensor) -> None:
        """Decide whether a parameter's gradients are added up here."""
        if self._noise is None and not self._is_widened(parameter):
            return
        if parameter._post_accumulate_grad_hooks:
            self.hooked = True
            return
        is_counted = self._noise is not None and not self._noise.is_input(parameter)
        kind = (parameter.grad_dtype, parameter.device, is_counted)
        if kind not in self._sums:
            self._sums[kind] = _Sums(self._grad_dtype if self._is_widened(parameter) else None)
        self._sums[kind].add(parameter)
        self._folded.add(parameter)
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

    @property
    def parameters(self) -> Collection[torch.Tensor]:
        """The parameters that the step has reached."""
        return self._before.keys()

    def has_narrow(self) -> bool:
        """Whether any gradient of the step is narrower than `grad_dtype`."""
        return any(map(self._is_widened, self._before))

    def fold(self) -> None:
        """Add the gradients of a complete micro-batch to the sums; `.grad` is None again."""
        made = [[p.grad for p in sums.parameters] for sums in self._sums.values()]
        if self._noise is not None:
            kinds = zip(self._sums, made, strict=True)
            self._noise.take([[g for g in group if g is not None] for (*_, counts), group in kinds if counts])
        for sums, group in zip(self._sums.values(), made, strict=True):
            sums.fold(group)
        self.may_share = True

    def versions(self) -> Versions:
        """Return how all gradients are now, for `reached`."""
        gradients = list(map(_gradient, self._before))
        return gradients, list(map(getattr, gradients, _VERSION, _NO_VERSION))

    def reached(self, versions: Versions) -> frozenset[torch.Tensor]:
        """Return the parameters whose own gradient has grown since; not those whose are folded when all is done."""
        rows = zip(list(self._before), *versions, strict=False)
        return frozenset(
            p for p, gradient, version in rows
            if p not in self._folded and p.grad is not None and (p.grad is not gradient or p.grad._version != version)
        )  # fmt: skip

    def unfolded(self) -> frozenset[torch.Tensor]:
        """Return the parameters whose gradients are added up in place."""
        return frozenset(self._before.keys() - self._folded)

    def knows(self, leaf: torch.Tensor) -> bool:
        """Whether a leaf's gradient from before the step has been set aside."""
        return leaf in self._before

    def drop_partial(self, count: int, sizes: Sequence[int]) -> None:
        """Drop what a failed micro-batch has left where whole ones are folded; `count` are complete."""
        self._clear(self._folded)
        if self._noise is not None:
            self._noise.resize(count, sizes)

    def begin_again(self) -> None:
        """Drop all that the step has made."""
        self._clear(self._before)
        for sums in self._sums.values():
            sums.totals = [None] * len(sums.totals)

    def observed(self) -> Observed | None:
        """Return what the micro-batches tell of the noise in their gradients; what comes later is none of theirs."""
        if self._noise is None:
            return None
        counted = [sums for (*_, counts), sums in self._sums.items() if counts]
        seen = self._noise.observed([[total for _, total in sums] for sums in counted], self._factor)
        self._noise = None
        return seen

    def made(self, leaf: torch.Tensor) -> torch.Tensor | None:
        """Return the gradient that this step has made so far, in the dtype that it will have."""
        found = (total for sums in self._sums.values() for parameter, total in sums if parameter is leaf)
        total = next(found, None)
        return leaf.grad if total is None else total.to(leaf.grad_dtype or total.dtype)

    def rescale(self, factor: torch.Tensor | float) -> None:
        """Multiply the gradients of this step."""
        self._factor = factor
        totals = [total for sums in self._sums.values() for _, total in sums]
        gradients = [*totals, *(p.grad for p in self._before if p.grad is not None)]
        if gradients:
            torch._foreach_mul_(gradients, factor)

    def finish(self, *, keep: bool) -> None:
        """Add what was set aside to the step's gradients; with `keep`, leave it as it is for `restore`.

        What takes memory comes first, and what writes into gradients from before the step last, in one call: until
        then `restore` undoes the step. If it fails it can be called again.
        """
        if not (self._has_before or self._sums):
            return
        if self._last is None:
            self._last = self._joined(keep=keep)
        before, made = self._last
        if before:
            torch._foreach_add_(before, made)

    def _joined(self, *, keep: bool) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Put every gradient in its place; return those from before, and what is still to be added to them."""
        totals = {parameter: total for sums in self._sums.values() for parameter, total in sums}
        whole: dict[torch.Tensor, torch.Tensor] = {}
        adds: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
        for parameter, before in self._before.items():
            total = totals.get(parameter) if totals else None
            if before is None:
                if total is not None:
                    whole[parameter] = total.to(parameter.grad_dtype or total.dtype)
                continue
            made = parameter.grad if total is None else total
            if made is None:
                whole[parameter] = before
            elif keep:
                whole[parameter] = (before + made).to(before.dtype)
            else:
                whole[parameter] = before
                adds[0].append(before)
                adds[1].append(made)  # of another dtype: the sum is taken in the wider one, and cast once
        for parameter, gradient in whole.items():
            parameter.grad = gradient
        self._sums.clear()
        return adds

    def restore(self) -> None:
        """Put the gradients back as they were before the step."""
        self._sums.clear()
        for parameter, before in self._before.items():
            parameter.grad = before

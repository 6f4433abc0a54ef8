"""What comes out of the micro-batches: losses recombined, outputs joined, the rest released."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch.utils import _pytree as pytree

from accum_magic.engine.facts import Constant, Joined, Leaf, Scalar, Unknown
from accum_magic.engine.losses import Recombined
from accum_magic.engine.remember import Named, Remembered
from accum_magic.engine.split import flatten
from accum_magic.errors import BatchError, ReleasedError

UNEVEN = (
    "`{}` is read after the step but cannot be put together from its micro-batches: it holds {} values in one of them "
    "and {} in another. Compute it after the step, or let the step see the whole batch: --replay always"
)


class _Unbound:
    """The value of a name that a branch of the step has not bound."""

    def __repr__(self) -> str:
        return "UNBOUND"


UNBOUND = _Unbound()


class Released:
    """Stands for a value of the micro-batches that was not kept; every use of it says how to keep it."""

    def __init__(self, name: str, why: str) -> None:
        self.__dict__.update(_name=name, _why=why)

    def _complain(self, *_args: object, **_kwargs: object) -> NoReturn:
        message = (
            f"`{self._name}` was not kept: {self._why}. Read it in the cell after the step (an assignment such as "
            f"`kept = {self._name}` is enough), and all of it is joined."
        )
        raise ReleasedError(message)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith(("__", "_repr_", "_ipython_")):
            raise AttributeError(name)  # protocols that ask what an object can do get an ordinary no
        self._complain()

    __getitem__ = __iter__ = __len__ = __call__ = __float__ = __int__ = __bool__ = __array__ = _complain
    __add__ = __sub__ = __mul__ = __truediv__ = __matmul__ = __radd__ = __rsub__ = __rmul__ = __eq__ = _complain
    __pow__ = __rpow__ = __rmatmul__ = __abs__ = __contains__ = _complain
    __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __rtruediv__ = _complain
    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __torch_function__(cls, _func: object, _types: object, args: Any = (), kwargs: Any = None) -> NoReturn:
        """Complain where a function of PyTorch is given the placeholder."""
        leaves = pytree.tree_leaves((args, kwargs or {}), is_leaf=lambda leaf: isinstance(leaf, cls))
        next(leaf for leaf in leaves if isinstance(leaf, cls))._complain()
        raise AssertionError

    def __repr__(self) -> str:
        return f"<`{self._name}` was not kept: {self._why}>"


def detached(value: Any) -> Any:
    """Return a value without its graph; containers are rebuilt."""
    if isinstance(value, torch.Tensor):
        return value.detach() if value.requires_grad else value
    if value is None or isinstance(value, str | int | float):
        return value
    leaves, spec = flatten(value)
    if not any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves):
        return value
    return pytree.tree_unflatten([leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], spec)


class Collector:
    """Collects one value over the micro-batches of a step."""

    __slots__ = ("_is_uneven", "agreements", "facts", "is_read", "losses", "name", "parts", "spec")

    def __init__(
        self,
        name: str,
        facts: Sequence[Leaf],
        sizes: Sequence[int],
        weights: Sequence[float] | None = None,
        *,
        is_read: bool,
    ) -> None:
        self.name, self.facts, self.is_read = name, facts, is_read
        self.parts: list[list[Any]] = [[] for _ in facts]
        self.losses = [Recombined(f, sizes, weights) if isinstance(f, Scalar) else None for f in facts]
        self.agreements: list[torch.Tensor] = []  # whether constants made anew were the same again
        self.spec: pytree.TreeSpec | None = None
        self._is_uneven = False  # its micro-batches hold different numbers of values

    @property
    def is_mixed(self) -> bool:
        """Whether there is a loss in the value whose parts are weighed apart."""
        return any(loss is not None and loss.is_mixed for loss in self.losses)

    @property
    def doubt(self) -> str:
        """Why the value is only approximate; empty if it is not."""
        if not any(loss is not None and loss.is_doubtful for loss in self.losses):
            return ""
        return f"`{self.name}` is put together as a mean over samples: a summand of it cannot be seen"

    def take(self, value: Any, remembered: Remembered | Named | None) -> None:
        """Take the value of one micro-batch, without its graph."""
        if isinstance(value, torch.Tensor):
            loss = self.losses[0]
            if loss is None:
                self._take_leaf(0, value, remembered)
            elif loss.looks:
                loss.take(value, remembered)
            else:  # most often, and a call less
                loss.pieces.append(value.detach())
            return
        leaves, self.spec = flatten(value)
        if len(leaves) != len(self.facts):
            self._is_uneven = True
            if self.is_read:
                raise BatchError(UNEVEN.format(self.name, len(self.facts), len(leaves)))
            return
        for index, leaf in enumerate(leaves):
            self._take_leaf(index, leaf, remembered)

    def resize(self, count: int, sizes: Sequence[int], weights: Sequence[float] | None) -> None:
        """Keep what the first `count` micro-batches have given; from there on they have other sizes."""
        for fact, part, loss in zip(self.facts, self.parts, self.losses, strict=True):
            if loss is not None:
                loss.resize(count, sizes, weights)
            elif isinstance(fact, Joined):
                del part[count:]

    def _take_leaf(self, index: int, leaf: Any, remembered: Remembered | Named | None) -> None:
        fact, part, loss = self.facts[index], self.parts[index], self.losses[index]
        if loss is not None:
            loss.take(leaf, remembered)
        elif self.is_read and isinstance(fact, Joined):
            part.append(leaf.detach())
        elif isinstance(fact, Constant):
            if isinstance(leaf, torch.Tensor):
                leaf = leaf.detach()
                if part and self.is_read:
                    self._compare(part[0], leaf)
            part[:] = [leaf]

    def _compare(self, before: Any, now: torch.Tensor) -> None:
        # A causal mask is made anew for each micro-batch. That two samples and three gave the same is no proof.
        if before.data_ptr() != now.data_ptr():
            is_same = before.eq(now).all() if before.shape == now.shape else torch.tensor(False)  # noqa: FBT003
            self.agreements.append(is_same)

    def result(self) -> Any:
        """Return the value of the whole batch."""
        if self._is_uneven or not all(map(bool, self.agreements)):
            return Released(self.name, "it is another in each micro-batch")
        leaves = [self._leaf(index) for index in range(len(self.facts))]
        if self.spec is None:
            return leaves[0]
        if len(leaves) == 1 or all(not isinstance(leaf, Released) for leaf in leaves) or self.is_read:
            return pytree.tree_unflatten(leaves, self.spec)
        return Released(self.name, "it is large, and nothing in the cell reads it")

    def _leaf(self, index: int) -> Any:
        fact, parts, loss = self.facts[index], self.parts[index], self.losses[index]
        if loss is not None:
            return loss.result()
        if isinstance(fact, Joined) and self.is_read:
            if len({(*part.shape[: fact.dim], *part.shape[fact.dim + 1 :]) for part in parts}) > 1:
                return Released(self.name, "its micro-batches are padded to different lengths")
            return torch.cat(parts, fact.dim)
        if isinstance(fact, Constant):
            return parts[0] if parts else None
        why = fact.reason if isinstance(fact, Unknown) else "it is large, and nothing in the cell reads it"
        return Released(self.name, why)

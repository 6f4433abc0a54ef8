"""What comes out of the micro-batches: losses recombined, outputs joined, the rest released."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch.utils import _pytree as pytree

from accum_magic.engine.facts import Constant, Joined, Leaf, Scalar, Unknown
from accum_magic.engine.split import flatten
from accum_magic.errors import ReleasedError


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

    __slots__ = ("agreements", "facts", "is_read", "name", "parts", "spec")

    def __init__(self, name: str, facts: Sequence[Leaf], *, is_read: bool) -> None:
        self.name, self.facts, self.is_read = name, facts, is_read
        self.parts: list[list[Any]] = [[] for _ in facts]
        self.agreements: list[torch.Tensor] = []  # whether constants made anew were the same again
        self.spec: pytree.TreeSpec | None = None

    @property
    def is_loss(self) -> bool:
        """Whether the value is a single number with a graph."""
        return len(self.facts) == 1 and isinstance(self.facts[0], Scalar)

    @property
    def scalar(self) -> Scalar | None:
        """The first loss in the value."""
        return next((f for f in self.facts if isinstance(f, Scalar)), None)

    def take(self, value: Any) -> None:
        """Take the value of one micro-batch, without its graph."""
        if isinstance(value, torch.Tensor):
            self._take_leaf(self.parts[0], self.facts[0], value)
            return
        leaves, self.spec = flatten(value)
        for part, fact, leaf in zip(self.parts, self.facts, leaves, strict=True):
            self._take_leaf(part, fact, leaf)

    def _take_leaf(self, part: list[Any], fact: Leaf, leaf: Any) -> None:
        if isinstance(fact, Scalar) or (self.is_read and isinstance(fact, Joined)):
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

    def result(self, weights: Sequence[float]) -> Any:
        """Return the value of the whole batch."""
        if not all(map(bool, self.agreements)):
            return Released(self.name, "it is another in each micro-batch")
        leaves = [self._leaf(f, p, weights) for f, p in zip(self.facts, self.parts, strict=True)]
        if self.spec is None:
            return leaves[0]
        if len(leaves) == 1 or all(not isinstance(leaf, Released) for leaf in leaves) or self.is_read:
            return pytree.tree_unflatten(leaves, self.spec)
        return Released(self.name, "it is large, and nothing in the cell reads it")

    def _leaf(self, fact: Leaf, parts: list[Any], weights: Sequence[float]) -> Any:
        if isinstance(fact, Scalar):
            return recombined(fact, parts, weights)
        if isinstance(fact, Joined) and self.is_read:
            if len({(*part.shape[: fact.dim], *part.shape[fact.dim + 1 :]) for part in parts}) > 1:
                return Released(self.name, "its micro-batches are padded to different lengths")
            return torch.cat(parts, fact.dim)
        if isinstance(fact, Constant):
            return parts[0] if parts else None
        why = fact.reason if isinstance(fact, Unknown) else "it is large, and nothing in the cell reads it"
        return Released(self.name, why)


def recombined(fact: Scalar, parts: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Return a loss of the whole batch from those of its micro-batches."""
    stacked = torch.stack(list(parts))
    if fact.reduction == "sum":
        return stacked.sum(0)
    if len(set(weights)) == 1:
        return stacked.mean(0)
    weight = torch.tensor(weights, dtype=stacked.dtype, device=stacked.device).view(-1, *(1,) * (stacked.ndim - 1))
    if 0.0 in weights:
        # a micro-batch without a valid target has a loss of NaN: it adds nothing
        stacked = torch.where(weight == 0, torch.zeros_like(stacked), stacked)
    return (stacked * weight).sum(0)

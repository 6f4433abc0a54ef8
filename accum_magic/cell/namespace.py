"""What is known of the names a cell finds in the notebook, as plain facts without a tensor in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["library", "module", "tensor", "function", "value", "container", "object"]


@dataclass(frozen=True, slots=True)
class NameFact:
    """One name of the user's namespace.

    `reaches` tells whether using it can build a graph: a module, a tensor that requires grad, or a
    function that uses one; None where nobody can say.
    """

    kind: Kind
    reaches: bool | None = None
    rows: int | None = None  # size of dimension 0 of a tensor
    shape: tuple[int, ...] = ()
    has_graph: bool = False  # a tensor that an earlier cell computed from parameters
    batch_norms: tuple[str, ...] = ()  # BatchNorm layers of a module, by their names in it
    training_batch_norms: tuple[str, ...] = ()  # those of them that use the statistics of their batch as things stand
    stepping_hook: str | None = None  # a hook of a module's parameters that steps an optimizer
    takes_gradients: bool = False  # a function that calls `torch.autograd.grad`, such as a gradient penalty's
    framework: str | None = None  # "lightning", "transformers", "fastai", "composer"
    batch_size: int | None = None  # of a loader, or of what a framework's trainer is given


Lookup = Callable[[str], NameFact | None]


def nothing_known(_path: str) -> NameFact | None:
    """Look up names where there is no namespace."""
    return None

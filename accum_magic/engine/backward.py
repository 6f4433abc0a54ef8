"""How a loss is back-propagated: as the user's cell does, and where that is PyTorch's own way, by a shorter one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
from torch.autograd import graph
from torch.overrides import has_torch_function

_METHOD: Any = torch.Tensor.backward


@dataclass(frozen=True, slots=True)
class Backward:
    """How the user's cell back-propagates: by the loss's own method, or through an object such as Accelerate's.

    PyTorch's own method checks its arguments and then calls the engine, as is done here without the checks
    (`torch.autograd.backward`, torch 2.13): they are 7 % of the instructions of a tiny model's micro-batch.
    """

    through: Callable[..., object] | None
    options: Sequence[Mapping[str, object]]
    _is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        """Look whether anything else has a part in it."""
        object.__setattr__(self, "_is_plain", self.through is None and not self.options and _are_pytorchs_own())

    def __call__(
        self,
        which: int,
        root: torch.Tensor,
        gradient: torch.Tensor | None,
        inputs: Sequence[torch.Tensor] | None = None,
    ) -> None:
        """Back-propagate one loss, starting from `gradient` in place of 1; to some `inputs` only, if there are any."""
        __tracebackhide__ = True
        if self._is_plain and inputs is None and gradient is not None and _is_of_pytorch(root):
            no = False  # no graph is kept, none is made
            graph._engine_run_backward((root,), (gradient,), no, no, (), allow_unreachable=True, accumulate_grad=True)
            return
        options = dict(self.options[which]) if self.options else {}
        if gradient is not None:
            options["gradient"] = gradient
        if inputs is not None:
            own: Any = options.get("inputs", inputs)
            wanted = [own] if isinstance(own, torch.Tensor) else own
            options["inputs"] = [leaf for leaf in inputs if any(leaf is one for one in wanted)]
            if not options["inputs"]:
                return
        if self.through is None:
            root.backward(**options)  # type: ignore[no-untyped-call]
        else:
            self.through(root, **options)


def _is_of_pytorch(root: torch.Tensor) -> bool:
    """Whether a loss's `backward` is PyTorch's: it may have one of its own, its class may, or a mode may listen."""
    return getattr(root.backward, "__func__", None) is _METHOD and not has_torch_function((root,))


def _are_pytorchs_own() -> bool:
    """Whether what a backward calls is as PyTorch has written it: a package may have put something around it."""
    function = torch.autograd.backward
    return (
        type(_METHOD) is FunctionType
        and _METHOD.__globals__ is vars(torch._tensor)
        and type(function) is FunctionType
        and function.__globals__ is vars(torch.autograd)
        and function.__globals__.get("_engine_run_backward") is getattr(graph, "_engine_run_backward", function)
    )

"""How a loss is back-propagated: as the user's cell does, and where that is PyTorch's own way, by a shorter one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd import graph
from torch.overrides import has_torch_function


@dataclass(frozen=True, slots=True)
class Backward:
    """How the user's cell back-propagates: by the loss's own method, or through an object such as Accelerate's.

    PyTorch's own method checks its arguments and then calls the engine. What it would check is made here, and is right;
    so the engine is called as it does (`torch.autograd.backward`, torch 2.13): the checks are 7 % of the instructions
    of a tiny model's micro-batch.
    """

    through: Callable[..., object] | None
    options: Sequence[Mapping[str, object]]
    _is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        """Look whether anything else has a part in it."""
        object.__setattr__(self, "_is_plain", self.through is None and not self.options and _is_pytorchs_own())

    def __call__(
        self,
        which: int,
        root: torch.Tensor,
        gradient: torch.Tensor | None,
        inputs: Sequence[torch.Tensor] | None = None,
    ) -> None:
        """Back-propagate one loss, starting from `gradient` in place of 1; to some `inputs` only, if there are any."""
        __tracebackhide__ = True
        if self._is_plain and inputs is None and gradient is not None and not has_torch_function((root,)):
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
        call = self.through or type(root).backward
        call(root, **options)


def _is_pytorchs_own() -> bool:
    """Whether `loss.backward()` is what PyTorch has written: a user or a package may have put something around it."""
    method, function = torch.Tensor.backward, torch.autograd.backward
    return (
        getattr(method, "__globals__", None) is vars(torch._tensor)
        and getattr(function, "__globals__", None) is vars(torch.autograd)
        and hasattr(graph, "_engine_run_backward")
    )

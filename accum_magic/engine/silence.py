"""Dropout switched off for a while, so that two runs of a step can be compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from accum_magic.engine.undo import drop_rates

if TYPE_CHECKING:
    from types import TracebackType

    from torch.utils.hooks import RemovableHandle


@dataclass(slots=True, eq=False)
class Silence:
    """A block in which modules drop nothing: the rates of all that are called are 0, and put back at the end."""

    is_autocast: bool = False
    """Whether a module was called under autocast: what it computes is as coarse as 16 bit."""
    _rates: dict[nn.Module, dict[str, float]] = field(default_factory=dict)
    _hook: RemovableHandle | None = None

    def __enter__(self) -> Self:
        self._hook = register_module_forward_pre_hook(self._hush)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._hook is not None:
            self._hook.remove()
        for module, rates in self._rates.items():
            vars(module).update(rates)

    @property
    def has_silenced(self) -> bool:
        """Whether a module would have dropped values."""
        return any(self._rates.values())

    def go_on(self) -> None:
        """Switch off again what was put back with a module's other attributes."""
        for module, rates in self._rates.items():
            vars(module).update(dict.fromkeys(rates, 0.0))

    def _hush(self, module: nn.Module, _args: Any) -> None:
        self.is_autocast = self.is_autocast or _is_autocast()
        if module in self._rates:
            return
        for child in module.modules():  # attention reads the rate of a layer that it never calls
            if child not in self._rates:
                self._rates[child] = drop_rates(child)
                vars(child).update(dict.fromkeys(self._rates[child], 0.0))


def _is_autocast() -> bool:
    devices = [name for name in ("cuda", "xpu") if getattr(torch, name).is_initialized()]
    return any(torch.is_autocast_enabled(name) for name in ("cpu", "mps", *devices))

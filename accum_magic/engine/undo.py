"""Run a forward and put back what it changed: random states, buffers and whatever else holds state."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase, _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook

from accum_magic.engine.state import State

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from torch.utils.hooks import RemovableHandle

COMPILED = "OptimizedModule"  # of `torch.compile(model)`; its class lies in a module that takes a second to import


@dataclass(frozen=True, slots=True, eq=False)
class RandomStates:
    """The states of all global random generators that this process uses."""

    cpu: torch.Tensor
    devices: dict[str, list[torch.Tensor]]
    python: tuple[Any, ...]
    numpy: tuple[Any, ...] | None

    @classmethod
    def now(cls) -> RandomStates:
        """Read the states; an accelerator that was never used is not initialised for it."""
        numpy = sys.modules.get("numpy")
        return cls(
            torch.get_rng_state(),
            {name: _device_states(name) for name in _used_devices()},
            random.getstate(),
            numpy.random.get_state() if numpy else None,
        )

    def restore(self) -> None:
        """Put the states back."""
        torch.set_rng_state(self.cpu)
        for name, states in self.devices.items():
            for index, state in enumerate(states):
                _set_device_state(name, index, state)
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)

    def differs(self, other: RandomStates) -> bool:
        """Whether random numbers were drawn between the two."""
        return (
            not torch.equal(self.cpu, other.cpu)
            or self.python != other.python
            or _numpy_key(self.numpy) != _numpy_key(other.numpy)
            or any(
                not torch.equal(mine, theirs)
                for name in self.devices.keys() & other.devices.keys()
                for mine, theirs in zip(self.devices[name], other.devices[name], strict=True)
            )
        )


def _numpy_key(state: tuple[Any, ...] | None) -> tuple[Any, ...]:
    return () if state is None else (state[1].tobytes(), *state[2:])


def _used_devices() -> list[str]:
    used = [name for name in ("cuda", "xpu") if getattr(torch, name).is_initialized()]
    return [*used, "mps"] if torch.backends.mps.is_available() else used


def _device_states(name: str) -> list[torch.Tensor]:
    module = getattr(torch, name)
    if name == "mps":
        return [module.get_rng_state()]
    return [module.get_rng_state(index) for index in range(module.device_count())]


def _set_device_state(name: str, index: int, state: torch.Tensor) -> None:
    module = getattr(torch, name)
    if name == "mps":
        module.set_rng_state(state)
    else:
        module.set_rng_state(state, index)


@dataclass(slots=True, eq=False)
class Rehearsal:
    """A block whose forwards leave random states and all other state as they were, also when they raise.

    ``rewind`` goes back to the start within the block; leaving it does the same.
    """

    sources: Mapping[str, object] = field(default_factory=dict)
    """What the forward reads, by name; the modules that are called are found in any case."""
    modules: dict[nn.Module, None] = field(default_factory=dict)
    """Every module that was called, in the order of its first call."""
    drew: bool = False
    """Whether a forward drew random numbers, as far as ``rewind`` has seen."""
    generators: dict[torch.Generator, None] = field(default_factory=dict)
    """The user's own random generators that were drawn from."""
    state: State = field(default_factory=State)
    _made: list[_NormBase] = field(default_factory=list)  # lazy norms without buffers before their first call
    _start: RandomStates | None = None
    _hook: RemovableHandle | None = None

    def __enter__(self) -> Self:
        self._start = RandomStates.now()
        self.state.watch(self.sources)
        self._hook = register_module_forward_pre_hook(self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._hook is not None:
            self._hook.remove()
        self.rewind()

    def rewind(self) -> None:
        """Put everything back to what it was on entry."""
        self.rewind_random()
        self.state.restore()
        for norm in self._made:
            norm.reset_running_stats()

    def rewind_random(self) -> None:
        """Put the random states back, so that the same numbers are drawn again."""
        if self._start is not None:
            self.drew = self.drew or self._start.differs(RandomStates.now())
            self._start.restore()
        self.generators |= dict.fromkeys(self.state.rewind_generators())
        self.drew = self.drew or bool(self.generators)

    def _remember(self, module: nn.Module, _args: Any) -> None:
        if module not in self.modules:
            self.modules[module] = None
            if isinstance(module, _LazyNormBase) and module.has_uninitialized_params():
                self._made.append(module)
            self.state.watch_module(module)

    def random_layers(self) -> tuple[str, ...]:
        """Type names of the called modules that drop values at random."""
        found = {type(module).__name__: None for module in self.modules if drop_rates(module)}
        return tuple(found)

    def batch_norms(self) -> tuple[str, ...]:
        """Qualified names of the called BatchNorm layers that use the statistics of their batch."""
        names: dict[nn.Module, str] = {}
        for module in self.modules:
            if module not in names:
                for name, child in module.named_modules():
                    names.setdefault(child, name or type(module).__name__)
        return tuple(names[module] for module in self.modules if _normalises_by_batch(module))

    def holds_batch_norms(self) -> bool:
        """Whether BatchNorm layers lie within the called modules, where hooks reach them: no graph is compiled."""
        if any(type(m).__name__ == COMPILED or m._compiled_call_impl is not None for m in self.modules):
            return False
        parts: set[nn.Module] = set()
        for module in self.modules:
            if module not in parts:
                parts.update(module.modules())
        return any(isinstance(part, _BatchNorm) for part in parts)


def drop_rates(module: nn.Module) -> dict[str, float]:
    """Return the attributes that tell how much a module drops at random, while it trains.

    `p` is a rate in layers of dropout only: the triplet margin loss has one that is the degree of its norm.
    """
    if not module.training:
        return {}
    is_dropout = "drop" in type(module).__name__.lower()
    rates = {k: v for k, v in vars(module).items() if "drop" in k.lower() or (k == "p" and is_dropout)}
    return {k: v for k, v in rates.items() if isinstance(v, float) and 0 < v <= 1}


def _normalises_by_batch(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)

"""Values of a forward pass, by the node that made them: a node tells its gradient, never its value.

A mode of PyTorch sees every call of a function, and adds some 5 microseconds to each. The numbers that a
loss adds up are made outside of most modules, so it is taken off while those run that made none before.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

import torch
from torch import nn, overrides

from accum_magic.engine.calls import OutermostCalls
from accum_magic.engine.facts import Scalar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from torch.utils.hooks import RemovableHandle

    from accum_magic.engine.facts import Leaf

MANY_CALLS = 8  # the hooks that take the mode off cost as much as it does on some six functions
MOST_VALUES = 2**16  # of a value per sample that is a summand before the samples are added up
_DIVISION = "DivBackward0"
_SCALINGS = {"MulBackward0", "NegBackward0", _DIVISION}
_IN_PLACE = frozenset({
    torch.Tensor.add_, torch.Tensor.sub_, torch.Tensor.mul_, torch.Tensor.div_,
    torch.Tensor.__iadd__, torch.Tensor.__isub__, torch.Tensor.__imul__, torch.Tensor.__itruediv__,
})  # fmt: skip


class _Numbers(overrides.TorchFunctionMode):
    """Notes small tensors that functions return."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self.values: dict[Any, tuple[torch.Tensor, int, nn.Module | None]] = {}
        self.inside: nn.Module | None = None
        self.calls: Counter[nn.Module] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call through, noting the result."""
        if torch.compiler.is_compiling():  # what is compiled is traced through here
            return func(*args, **kwargs) if kwargs else func(*args)
        if func in _IN_PLACE:  # `loss += term` changes the number that stood there
            node = args[0].grad_fn
            if node in self.values:
                self.values[node] = args[0].detach().clone(), 0, self.inside
        result = func(*args, **kwargs) if kwargs else func(*args)
        if self.inside is not None:
            self.calls[self.inside] += 1
        if isinstance(result, torch.Tensor) and result.numel() <= self._most:
            node = result.grad_fn
            if node is not None:
                self.values[node] = result, result._version, self.inside
        return result


class Named:
    """The values that a step returns, by the node that made them: enough where a cell names its terms."""

    def __init__(self, values: Iterable[object]) -> None:
        self._values = {value.grad_fn: value for value in values if isinstance(value, torch.Tensor)}

    def value_of(self, node: Any) -> torch.Tensor | None:
        """Return what a node has made; a leaf's is the leaf itself, None where it was made out of sight."""
        variable = getattr(node, "variable", None)
        return self._values.get(node) if variable is None else variable

    def has_below(self, node: Any) -> bool:
        """Whether a node's value can be told from these."""
        while self.value_of(node) is None:
            below = scaled_by(node)
            if below is None:
                return False
            node = node.next_functions[below][0]
        return True


def scaled_by(node: Any) -> int | None:
    """Return which input a node multiplies by a number; None where it does something else."""
    if node.name() not in _SCALINGS:
        return None
    inputs = [index for index, (source, _) in enumerate(node.next_functions) if source is not None]
    return inputs[0] if len(inputs) == 1 and not (node.name() == _DIVISION and inputs[0]) else None


class Remembered:
    """A block that remembers single numbers with a graph, and with `rows` small tensors too.

    With `quiet` it does not inside those modules; without, it notes which outermost modules are called.
    """

    def __init__(self, quiet: Iterable[nn.Module] | None, *, rows: bool) -> None:
        self.makers: set[nn.Module] = set()
        """Outermost modules that have made what was asked for, where those were looked at."""
        self.asked: list[Any] = []
        """Nodes whose values were asked for."""
        self._numbers = _Numbers(MOST_VALUES if rows else 1)
        self._outermost = _Outermost(self._numbers) if quiet is None else None
        self._quiet = tuple(quiet or ())
        self._handles: list[RemovableHandle] = []
        self._off: nn.Module | None = None

    def __enter__(self) -> Self:
        if self._outermost is not None:
            self._outermost.__enter__()
        for module in self._quiet:
            self._handles.append(module.register_forward_pre_hook(self._take_off))
            self._handles.append(module.register_forward_hook(self._put_on, always_call=True))
        overrides._push_mode(self._numbers)  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._off is None:
            overrides._pop_mode()  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()
        if self._outermost is not None:
            self._outermost.__exit__(kind, error, traceback)

    def _take_off(self, module: nn.Module, _args: Any) -> None:
        if overrides._get_current_function_mode() is self._numbers:  # type: ignore[no-untyped-call]
            overrides._pop_mode()  # type: ignore[no-untyped-call]
            self._off = module

    def _put_on(self, module: nn.Module, _args: Any, _result: Any) -> None:
        if self._off is module:
            self._off = None
            overrides._push_mode(self._numbers)  # type: ignore[no-untyped-call]

    def quiet(self) -> WeakSet[nn.Module] | None:
        """Return the modules that have called many functions and made nothing that was asked for; None if unknown."""
        if self._outermost is None:
            return None
        calls = self._numbers.calls.items()
        busy = (module for module, count in calls if count >= MANY_CALLS and module not in self.makers)
        return WeakSet([*busy, *self._outermost.compiled])

    def value_of(self, node: Any) -> torch.Tensor | None:
        """Return what a node has made; a leaf's is the leaf itself.

        None where it was made out of sight, is larger, or has been written over.
        """
        variable = getattr(node, "variable", None)
        if variable is not None:
            return variable  # type: ignore[no-any-return]
        value, version, maker = self._numbers.values.get(node, (None, 0, None))
        if value is None or value._version != version:
            return None
        self.asked.append(node)
        if maker is not None:
            self.makers.add(maker)
        return value


class _Outermost(OutermostCalls):
    """Tells in which outermost module numbers are made."""

    def __init__(self, numbers: _Numbers) -> None:
        super().__init__(())
        self._numbers = numbers
        self.compiled: list[nn.Module] = []

    def handle(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call as it is; a compiled module would be compiled once more for the mode."""
        __tracebackhide__ = True
        if type(module).__name__ == "OptimizedModule":
            self.compiled.append(module)
            with overrides._pop_mode_temporarily():
                return self.original(module, *args, **kwargs)
        self._numbers.inside = module
        try:
            return self.original(module, *args, **kwargs)
        finally:
            self._numbers.inside = None


class Remembering:
    """What the micro-batches of a step run under; the first one tells which modules need no looking into."""

    def __init__(self, values: Iterable[Leaf] = ()) -> None:
        parts = [part for leaf in values if isinstance(leaf, Scalar) for part in leaf.parts]
        self.is_needed = bool(parts)
        """Whether a value is a loss of parts that are weighed apart."""
        self._rows = any(part.has_rows for part in parts)
        self._quiet: WeakSet[nn.Module] | None = None
        self._are_named = False

    def block(self) -> AbstractContextManager[Remembered | None]:
        """Return a block for the next micro-batch."""
        return nullcontext() if self._are_named else Remembered(self._quiet, rows=self._rows)

    def named(self, values: Iterable[object]) -> Named | None:
        """Return what stands in for a block; None where that has to be there."""
        return Named(values) if self._are_named else None

    def learn(self, remembered: Remembered, values: Iterable[object]) -> None:
        """Take over what a micro-batch tells, after its values were asked for."""
        quiet = remembered.quiet()
        if quiet is not None:
            self._quiet = quiet
            named = Named(values)
            self._are_named = all(map(named.has_below, remembered.asked))

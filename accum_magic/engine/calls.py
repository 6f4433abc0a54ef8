"""The module calls of a step that treat their samples one by one: those that can run chunk by chunk.

They are found at run time, so through helpers and methods too (`model.encode(x)` calls modules in the
end). Each call is judged by itself, by the graph between its inputs and its outputs on k and on k + 1
samples. A call that is not per sample (a CLIP that returns its loss) is opened: its children are judged.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from accum_magic.engine.facts import Constant, Joined
from accum_magic.engine.flow import measure
from accum_magic.engine.graph import Lockstep, Output, is_equal
from accum_magic.engine.leaves import leaf_facts, pair_top
from accum_magic.engine.probe import eager
from accum_magic.engine.reads import NumberReads
from accum_magic.engine.split import flatten
from accum_magic.engine.terms import Context, Coupling
from accum_magic.engine.undo import Rehearsal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from accum_magic.engine.facts import Leaf

Key = tuple[nn.Module, pytree.TreeSpec]
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


@dataclass(frozen=True, slots=True)
class CallFacts:
    """How one call of a module is cut into chunks, and its results put together."""

    inputs: tuple[int | None, ...]
    """Per leaf of its arguments the dimension that grows with the batch; None: every chunk gets all of it."""
    outputs: tuple[int | None, ...]
    """Per leaf of its result the dimension where chunks are joined; None: the same in every chunk."""


NO_ROWS = "what goes in or comes out has no row per sample"
_MOST_LEVELS = 64
_UNLIKE = -1
_WHOLE = CallFacts((), ())
_UNTOLD = CallFacts((_UNLIKE,), ())


@dataclass(frozen=True, slots=True, eq=False)
class StudiedCalls:
    """What is known of a step's module calls; it holds modules, so it lives no longer than its run."""

    facts: Mapping[Key, Sequence[CallFacts | None]]
    """By module and structure of its arguments, one entry per call; None: the call has no part in the batch."""
    opened: frozenset[nn.Module]
    """Modules that run as they stand while their children are looked at."""
    draws: bool
    """Whether random numbers are drawn in the step."""
    generators: tuple[torch.Generator, ...]
    """The user's own random generators that it draws from."""
    whole: Mapping[str, str]
    """Kinds of modules that have parameters, hold no other module and still run on the whole batch, and why."""

    @property
    def can_chunk(self) -> bool:
        """Whether there is a call that can run in chunks."""
        return any(found is not None for calls in self.facts.values() for found in calls)


class OutermostCalls(ABC):
    """A block in which the outermost calls of modules that are not open go through `handle`.

    `nn.Module.__call__` is replaced for the length of the block, but not while a call is handled: what a
    module calls in turn costs nothing, and a compiled one is traced as ever.
    """

    def __init__(self, opened: Iterable[nn.Module]) -> None:
        self._opened = frozenset(opened)
        self._thread = threading.get_ident()
        self._stack = ExitStack()
        self._replacement: Callable[..., Any] | None = None
        self.original: Callable[..., Any] = nn.Module.__call__

    @abstractmethod
    def handle(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand in for ``module(*args, **kwargs)``; calls of modules in here are not looked at."""

    def __enter__(self) -> Self:
        outermost, original = self, nn.Module.__call__
        self.original = original
        if any(type(module).__name__ == "OptimizedModule" for module in self._opened):
            self._stack.enter_context(eager())  # a compiled module does not call its children one by one

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if module in outermost._opened or threading.get_ident() != outermost._thread:
                return original(module, *args, **kwargs)
            nn.Module.__call__ = original  # type: ignore[method-assign]
            try:
                return outermost.handle(module, args, kwargs)
            finally:
                nn.Module.__call__ = outermost._replacement  # type: ignore[assignment, method-assign]

        self._replacement = nn.Module.__call__ = call  # type: ignore[method-assign]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        nn.Module.__call__ = self.original  # type: ignore[method-assign]
        self._replacement = None  # or what was seen of the calls, graphs too, would wait for the garbage collector
        self._stack.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    module: nn.Module
    spec: pytree.TreeSpec
    inputs: list[Any]
    outputs: list[Any]
    is_pure: bool
    """Whether it leaves its inputs as they are; else the second pass would find others."""


class _Listener(OutermostCalls):
    """Runs the calls as they are, each in a graph of its own, and remembers what went in and came out."""

    def __init__(self, opened: Iterable[nn.Module]) -> None:
        super().__init__(opened)
        self.calls: list[_Call] = []

    def handle(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves, spec = flatten((args, kwargs))
        leaves = [_cut(leaf) for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        before = _versions(leaves)
        result = self.original(module, *args, **kwargs)
        self.calls.append(_Call(module, spec, leaves, flatten(result)[0], before == _versions(leaves)))
        return result


def _versions(leaves: Iterable[Any]) -> list[int]:
    return [leaf._version for leaf in leaves if isinstance(leaf, torch.Tensor) and not leaf.is_inference()]


def _cut(leaf: Any) -> Any:
    """Cut the graph above a call; what goes in is no leaf, for modules may write into it."""
    if isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None:
        return leaf.detach().requires_grad_().clone()
    return leaf


@dataclass(slots=True)
class _Round:
    """What one look at the step has told."""

    facts: dict[Key, list[CallFacts | None]] = field(default_factory=dict)
    to_open: set[nn.Module] = field(default_factory=set)
    whole: dict[str, str] = field(default_factory=dict)


def study_calls(forward: Callable[[int], object], k: int, sources: Mapping[str, object]) -> StudiedCalls:
    """Find the outermost module calls that can run in chunks; nothing that a forward changes stays.

    Args:
        forward: runs the step on its first ``n`` samples; it is called for ``k`` and ``k + 1`` once per level
            of modules that has to be opened.
        k: samples of the smaller run.
        sources: what the forward reads, by name, as for `probe`.

    """
    opened: set[nn.Module] = set()
    whole: dict[str, str] = {}
    for _ in range(_MOST_LEVELS):
        found, rehearsal = _look(forward, k, sources, opened)
        whole |= found.whole
        if not found.to_open:
            break
        opened |= found.to_open
    return StudiedCalls(found.facts, frozenset(opened), rehearsal.drew, tuple(rehearsal.generators), whole)


def _look(
    forward: Callable[[int], object], k: int, sources: Mapping[str, object], opened: set[nn.Module]
) -> tuple[_Round, Rehearsal]:
    """Run the step twice with some modules open; its graphs are gone when this returns."""
    with eager(), Rehearsal(sources) as rehearsal:
        small, reads = _listen(forward, k, opened)
        rehearsal.rewind()
        large, more_reads = _listen(forward, k + 1, opened)
        rehearsal.rewind()
        is_quiet = not rehearsal.drew and not rehearsal.batch_norms()
        with _disable_current_modes():
            return _compared(small, large, Context(k, is_quiet, (reads, more_reads))), rehearsal


def _listen(forward: Callable[[int], object], samples: int, opened: set[nn.Module]) -> tuple[list[_Call], NumberReads]:
    with _Listener(opened) as listener, NumberReads() as reads:
        forward(samples)
    return listener.calls, reads


def _compared(small: list[_Call], large: list[_Call], context: Context) -> _Round:
    found = _Round()
    for mine, theirs in zip_longest(small, large):
        if mine is None or theirs is None or not _is_alike(mine, theirs):
            found.to_open |= {call.module for call in (mine, theirs) if call is not None}
            break  # from here on the runs tell nothing of each other
        if mine.module is not theirs.module:
            continue  # made by the step itself: `nn.CrossEntropyLoss()(out, y)`
        told = _Told(mine, theirs, context)
        facts = _facts_of(mine, theirs, told, context)
        if facts == _UNTOLD:
            found.to_open.add(mine.module)
            if _has_own_parameters_only(mine.module):
                found.whole[type(mine.module).__name__] = told.fault
        else:
            found.facts.setdefault((mine.module, mine.spec), []).append(facts if facts != _WHOLE else None)
    return found


def _is_alike(small: _Call, large: _Call) -> bool:
    is_made_anew = type(small.module) is type(large.module) and not has_parameters(small.module)
    return (small.module is large.module or is_made_anew) and small.spec == large.spec


def _facts_of(small: _Call, large: _Call, told: _Told, context: Context) -> CallFacts:
    inputs = [_input_dim(a, b, context) for a, b in zip(small.inputs, large.inputs, strict=True)]
    outputs = told.output_dims()
    if outputs is None or _UNLIKE in inputs or not small.is_pure:
        return _UNTOLD
    if any(dim is not None for dim in inputs):
        return CallFacts(tuple(inputs), outputs)
    return _WHOLE if all(dim is None for dim in outputs) else _UNTOLD  # rows out of nothing: kept in the module


def _has_own_parameters_only(module: nn.Module) -> bool:
    return next(module.children(), None) is None and has_parameters(module)


def has_parameters(module: nn.Module) -> bool:
    """Whether a module trains; those that do not (a criterion) may be made by the step itself."""
    return next(module.parameters(), None) is not None


def _input_dim(small: Any, large: Any, context: Context) -> int | None:
    """Return the dimension of an argument that grows; `_UNLIKE` where chunks could not be given a part of it."""
    if isinstance(small, torch.Tensor) and isinstance(large, torch.Tensor):
        growing = Output.of(tuple(small.shape), tuple(large.shape)).growing
        if not growing:
            return None
        is_one = len(growing) == 1 and context.is_regular(small.shape[growing[0]], large.shape[growing[0]])
        return growing[0] if is_one else _UNLIKE
    if small is large or (isinstance(small, _PLAIN) and type(small) is type(large) and small == large):
        return None
    return _UNLIKE


class _Told:
    """What the graphs of one call, cut off above it, tell of its outputs."""

    def __init__(self, small: _Call, large: _Call, context: Context) -> None:
        self._is_like = len(small.outputs) == len(large.outputs)
        pairs = list(zip(small.outputs, large.outputs, strict=False))
        steps = Lockstep()
        tops = [pair_top(steps, mine, theirs) for mine, theirs in pairs]
        flows = measure(steps.order, context)
        found = [flows[top] if top is not None else None for top in tops]
        facts = [leaf_facts(*pair, context, top, flows) for pair, top in zip(pairs, tops, strict=True)]
        self._facts = [
            fact if _is_proven(fact, *pair, context) else None for fact, pair in zip(facts, pairs, strict=True)
        ]
        faults = [flow.fault for flow in found if flow is not None and flow.fault]
        self.fault = next((fault for fault in faults if isinstance(fault, Coupling)), next(iter(faults), NO_ROWS))
        """Why its outputs are not per sample; a `Coupling` where that is proven."""

    def output_dims(self) -> tuple[int | None, ...] | None:
        """Return where the chunks of its outputs are joined; None if they are not per sample."""
        if not self._is_like or not all(isinstance(fact, Joined | Constant) for fact in self._facts):
            return None
        return tuple(fact.dim if isinstance(fact, Joined) else None for fact in self._facts)


def _is_proven(fact: Leaf, small: Any, large: Any, context: Context) -> bool:
    """Whether the facts of an output hold; of one without a graph only its values can tell."""
    if not isinstance(fact, Joined) or small.grad_fn is not None:
        return True
    return context.is_quiet and is_equal(small, large.narrow(fact.dim, 0, small.shape[fact.dim]))

"""Replay: the exact way for losses that are no mean over samples (InfoNCE, Dice, RMSE, a maximum).

The step runs once, on the whole batch; only its module calls run chunk by chunk, under activation
checkpointing (https://docs.pytorch.org/docs/stable/checkpoint.html). The loss sees every output of the
full batch, as in GradCache (Gao et al. 2021, arXiv 2101.06983), and each chunk is computed once more
when the backward pass reaches it: one more forward in all, and the activations of one chunk at a time.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from accum_magic.engine.calls import OutermostCalls, has_parameters
from accum_magic.engine.split import flatten
from accum_magic.engine.undo import RandomStates
from accum_magic.errors import BatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from torch import nn

    from accum_magic.engine.calls import CallFacts, Key, StudiedCalls


class AnotherCallError(BatchError):
    """A module is called in another way than in the step that was studied: another model, other arguments."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(
            f"replay: `{type(module).__name__}` is called in another way than in the step that was measured, so its "
            "batch cannot be cut into chunks. Run the cell with --replay never, or without %%accumulate."
        )


class ChunkedCalls(OutermostCalls):
    """A block whose module calls run in chunks: put a step's forward pass on the whole batch into it.

    >>> import torch
    >>> from accum_magic.engine.calls import study_calls
    >>> model, x = torch.nn.Linear(3, 2), torch.randn(5, 3)
    >>> calls = study_calls(lambda n: model(x[:n]), 2, {"model": model})
    >>> with ChunkedCalls(calls, (3, 2)):
    ...     out = model(x)
    >>> out.shape, out.grad_fn.name()
    (torch.Size([5, 2]), 'CatBackward0')

    Raises:
        AnotherCallError: A call is not the one that was studied.

    """

    def __init__(
        self,
        calls: StudiedCalls,
        sizes: Sequence[int],
        on_chunk: Callable[[int], object] = lambda _: None,
        again: Callable[[], AbstractContextManager[object]] = nullcontext,
        *,
        is_strict: bool = True,
    ) -> None:
        """Cut each call into chunks of some ``sizes``; call ``on_chunk(index)`` before each.

        Without ``is_strict`` a module that was not studied runs as it stands, such as an expert that none of a few
        samples was routed to. ``again`` makes what surrounds the second pass of a chunk, in whatever thread the
        backward runs.
        """
        super().__init__(calls.opened)
        self._again = again
        self._calls, self._sizes, self._samples, self._on_chunk = calls, sizes, sum(sizes), on_chunk
        self._made: Counter[Key] = Counter()
        self._is_strict = is_strict
        self.whole: set[str] = set()
        """Kinds of modules with parameters that ran on the whole batch, though they were not studied to need it."""

    def handle(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call in chunks, and join their results."""
        __tracebackhide__ = True
        leaves, spec = flatten((args, kwargs))
        facts = self._facts(module, (module, spec))
        if facts is not None and not self._has_fixed_rows(leaves, facts):
            self._note_whole(module)
            facts = None
        if facts is None:
            return self.original(module, *args, **kwargs)
        columns = [self._pieces(leaf, dim) for leaf, dim in zip(leaves, facts.inputs, strict=True)]
        results = []
        for index, pieces in enumerate(zip(*columns, strict=True)):
            self._on_chunk(index)
            results.append(flatten(self._chunk(module, spec, pieces)))
        leaves_of_chunks = zip(*(parts for parts, _ in results), strict=True)
        joined = [
            parts[0] if dim is None else torch.cat(parts, dim)
            for dim, parts in zip(facts.outputs, leaves_of_chunks, strict=True)
        ]
        return pytree.tree_unflatten(joined, results[0][1])

    def _facts(self, module: nn.Module, key: Key) -> CallFacts | None:
        """Return what was found of this call; a loop over more time steps repeats its last one."""
        known = self._calls.facts.get(key)
        if not known:
            if self._is_strict and has_parameters(module):
                raise AnotherCallError(module)
            self._note_whole(module)
            return None
        position = self._made[key]
        self._made[key] += 1
        return known[min(position, len(known) - 1)]

    def _note_whole(self, module: nn.Module) -> None:
        if has_parameters(module):
            self.whole.add(type(module).__name__)

    def _has_fixed_rows(self, leaves: Sequence[Any], facts: CallFacts) -> bool:
        """Whether the rows are a fixed number per sample: those that a mask selects were so by chance."""
        grown = [(leaf, dim) for leaf, dim in zip(leaves, facts.inputs, strict=True) if dim is not None]
        return all(leaf.shape[dim] % self._samples == 0 for leaf, dim in grown)

    def _pieces(self, leaf: Any, dim: int | None) -> Sequence[Any]:
        if dim is None:
            return (leaf,) * len(self._sizes)
        each = leaf.shape[dim] // self._samples
        return torch.split_with_sizes(leaf, [each * size for size in self._sizes], dim)

    def _chunk(self, module: nn.Module, spec: pytree.TreeSpec, leaves: Sequence[Any]) -> Any:
        original = self.original

        def run(*tensors: torch.Tensor) -> Any:
            given = iter(tensors)
            args, kwargs = pytree.tree_unflatten(
                [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], spec
            )
            return original(module, *args, **kwargs)

        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not torch.is_grad_enabled():
            return run(*tensors)
        return checkpoint(
            run, *tensors, use_reentrant=False, preserve_rng_state=False, context_fn=self._contexts, early_stop=False
        )

    def _contexts(self) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        """Return what surrounds a chunk's first forward and its second one: the same random numbers in both."""
        start = RandomStates.now() if self._calls.draws else None
        states = [(generator, generator.get_state()) for generator in self._calls.generators]
        return nullcontext(), _SecondPass(start, states, self._again)


class _SecondPass:
    """Around a chunk that is computed again, each time a backward needs it (`retain_graph` lets there be several)."""

    def __init__(
        self,
        start: RandomStates | None,
        generators: Sequence[tuple[torch.Generator, torch.Tensor]],
        again: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._start, self._generators, self._again = start, generators, again
        self._stack = ExitStack()

    def __enter__(self) -> None:
        self._stack.enter_context(self._again())
        if self._start is not None:
            self._stack.callback(RandomStates.now().restore)
            self._start.restore()
        for generator, state in self._generators:
            self._stack.callback(generator.set_state, generator.get_state())
            generator.set_state(state)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

"""What is known of one step of the code: how its batch is split, what the probe found, where its targets lie."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from accum_magic.engine.calls import StudiedCalls
from accum_magic.engine.facts import StepFacts, Unknown
from accum_magic.engine.failure import Attempt
from accum_magic.engine.first_samples import copies_of_one, first_samples, pairwise_names
from accum_magic.engine.measured import Measured
from accum_magic.engine.planner import Asked, Auto
from accum_magic.engine.prepared import Prepared
from accum_magic.engine.probe import probe
from accum_magic.engine.reach import reachable
from accum_magic.engine.remember import Remembering
from accum_magic.engine.replayable import calls_to_replay, is_to_replay, replay_notes
from accum_magic.engine.rescue import Recall
from accum_magic.engine.split import (
    UnequalRows,
    attributes_of,
    rows,
    rows_of_attributes,
    split,
)
from accum_magic.engine.targets import Targets
from accum_magic.engine.undo import COMPILED, Rehearsal
from accum_magic.errors import BatchError

PROBE_SAMPLES = 2  # a size of 1 broadcasts, so k = 2 and k + 1 = 3 are the cheapest two that tell
Outcome = tuple[Sequence[torch.Tensor], Sequence[Any]]


@dataclass(slots=True)
class Site:
    """One `step` call of the rewritten code."""

    line: int
    function: str  # of another cell, in which the step stands; empty for one of the cell itself
    loose: tuple[str, ...]
    fixed: tuple[str, ...]
    dims: Mapping[str, int | None]
    found_dims: dict[str, int] = field(default_factory=dict)  # by shape, where no line of the cell tells
    divided: tuple[str, ...] | None = None  # names that are split, decided at the first step
    absent: tuple[str, ...] = ()  # names that were None when it was decided
    replay: str = "auto"  # or "always", "never"
    facts: StepFacts | None = None
    calls: StudiedCalls | None = None  # under replay: the module calls that run in chunks
    whole_bytes: int = 0  # under replay: what is kept of the whole batch beside a chunk's activations
    signature: tuple[object, ...] = ()  # the graph the facts were read from
    pairwise: tuple[str, ...] = ()  # divided names that the probe cuts along both of their dimensions
    prepared: Prepared | None = None  # from the facts, for all steps
    targets: dict[tuple[int, int], Targets] = field(default_factory=dict)  # of a root and its part
    counted: tuple[tuple[int, int], ...] = ()  # roots and parts whose totals have to be known beforehand, and are not
    remembering: Remembering = field(default_factory=Remembering)
    plan: Asked | Auto = field(default_factory=Asked)
    plan_facts: StepFacts | None = None  # those that `plan` was made from
    pending: Measured | None = None  # a step whose times the device has not told yet
    is_reentrant: bool = False  # its backward runs others inside of it: a micro-batch cannot be redone in part
    modules: list[weakref.ref[nn.Module]] = field(default_factory=list)  # that the forward calls
    trained: list[weakref.ref[nn.Parameter]] = field(default_factory=list)  # the parameters within them
    generators: list[torch.Generator] = field(default_factory=list)  # of the user's own, that it draws from
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The line, and the function it stands in where that is another cell's."""
        return f"line {self.line} of `{self.function}`" if self.function else f"line {self.line}"

    def dim(self, name: str) -> int:
        """Return the batch dimension of a name."""
        return self.dims.get(name) or self.found_dims.get(name, 0)

    def samples(self, batch: Mapping[str, Any]) -> int:
        """Return the number of samples of a step, and decide at the first step which names are split.

        Raises:
            BatchError: Names disagree on it, a name could be the batch or not, or nothing can be split.

        """
        absent = tuple(name for name, value in batch.items() if value is None)
        if self.divided is None or absent != self.absent:  # `weight = None` in some steps says nothing of the others
            self.divided, self.absent = self._decide(batch), absent
        found: dict[str, int] = {}
        for name in self.divided:
            count = self._rows(name, batch[name])
            if count is not None:
                found[name] = count
        if len(set(found.values())) > 1:
            raise BatchError(self._unequal(found))
        if not found:
            raise BatchError(self._nothing(batch))
        return next(iter(found.values()))

    def _rows(self, name: str, value: object) -> int | None:
        attributes = attributes_of(value)
        try:
            return rows(value, self.dim(name)) if attributes is None else rows_of_attributes(attributes, self.dim(name))
        except UnequalRows as error:
            counts = " and ".join(f"`{name}{k}` has {c} rows" for k, c in zip(error.keys, error.counts, strict=True))
            message = (
                f"{self.where}: unequal batch sizes: {counts}. If only some of them are the batch, name them: "
                f'%%accumulate 4 --batch "{name}{error.keys[0]}"'
            )
            raise BatchError(message) from None

    def _check_list(self, name: str, value: object) -> None:
        """Refuse a list with one entry per sample (detection's images and targets): it has no batch dimension."""
        if not isinstance(value, list | tuple) or hasattr(value, "_fields") or not value:
            return
        shapes = {tuple(v.shape) for v in value if isinstance(v, torch.Tensor)}
        image_dimensions = 3
        ragged = len(shapes) > 1 and {len(s) for s in shapes} == {image_dimensions}
        if ragged or all(isinstance(v, dict) for v in value):
            message = (
                f"{self.where}: `{name}` is a list with one entry per sample ({len(value)} entries), which "
                "cannot be "
                "split along a dimension. Stack it into one tensor, or run this cell without %%accumulate."
            )
            raise BatchError(message)

    def _decide(self, batch: Mapping[str, Any]) -> tuple[str, ...]:
        strict = [n for n in batch if n not in self.loose and n not in self.fixed]
        for name in (*strict, *self.loose):
            self._check_list(name, batch[name])
        counts = {n: c for n in strict if (c := self._rows(n, batch[n])) is not None}
        samples = next(iter(counts.values()), None)
        for name in (n for n, dim in self.dims.items() if dim is None and n in batch):
            self.found_dims[name] = self._dim_by_shape(name, batch[name], samples)
        for name in self.fixed:
            self._check_fixed(name, batch[name], samples, next(iter(counts), ""), batch)
        loose = [n for n in self.loose if self._matches(n, batch[n], samples)]
        for name in (*strict, *loose):
            self._check_graph(name, batch[name])
        return (*strict, *loose)

    def _dim_by_shape(self, name: str, value: object, samples: int | None) -> int:
        """Return the dimension with as many values as samples; one that the value has not where there is none."""
        shape = getattr(value, "shape", ())
        found = [dim for dim, size in enumerate(shape) if size == samples]
        if len(found) > 1:
            message = (
                f"{self.where}: `{name}` has the shape {tuple(shape)}, and which dimension is the batch of "
                f"{samples} cannot be told. Say it: %%accumulate 4 --dim {name}={found[-1]}, or --dim "
                f"{name}={len(shape)} if it has none."
            )
            raise BatchError(message)
        return found[0] if found else len(shape)

    def _matches(self, name: str, value: object, samples: int | None) -> bool:
        try:
            return samples is not None and rows(value, self.dim(name)) == samples
        except UnequalRows:
            return False

    def _check_fixed(self, name: str, value: object, samples: int | None, main: str, batch: Mapping[str, Any]) -> None:
        if not isinstance(value, torch.Tensor) or value.requires_grad or value.ndim == 0 or value.shape[0] != samples:
            return
        unit = "values" if value.ndim == 1 else "rows"
        main_unit = "values" if getattr(batch[main], "ndim", 2) == 1 else "rows"
        message = (
            f"{self.where}: `{name}` ({value.shape[0]} {unit}) and `{main}` ({samples} {main_unit}) could both be "
            f"the batch.\nSay which: %%accumulate 4 --batch {main}"
        )
        raise BatchError(message)

    def _check_graph(self, name: str, value: object) -> None:
        if isinstance(value, torch.Tensor) and value.grad_fn is not None and value.ndim > self.dim(name):
            message = (
                f"{self.where}: the graph behind `{name}` was built before this step's micro-batches. Compute "
                f"`{name}` in the same cell, between the batch and the loss, or detach it."
            )
            raise BatchError(message)

    def _unequal(self, found: Mapping[str, int]) -> str:
        main, *others = found
        other = next(n for n in others if found[n] != found[main])
        return (
            f"{self.where}: unequal batch sizes: `{main}` has {found[main]} rows and `{other}` has {found[other]}. "
            f"If only one of them is the batch, say so: %%accumulate 4 --batch {main}; if the batch is another "
            f"dimension, name it: --dim {other}=1"
        )

    def _nothing(self, batch: Mapping[str, Any]) -> str:
        kinds = ", ".join(f"`{n}` is a {type(v).__name__}" for n, v in batch.items() if n not in self.fixed)
        return (
            f"{self.where}: found nothing to split: {kinds or 'no batch'}. Name the tensors that hold the batch: "
            "%%accumulate 4 --batch x,y (or an expression, --batch batch.text)"
        )

    def pieces(self, batch: Mapping[str, Any], sizes: tuple[int, ...]) -> list[Sequence[Any]]:
        """Return the arguments of the micro step, one sequence of micro-batches per name."""
        divided, count = self.divided or (), len(sizes)
        return [split(v, sizes, self.dim(n)) if n in divided else (v,) * count for n, v in batch.items()]

    @property
    def min_samples(self) -> int:
        """Samples that a micro-batch must have at least."""
        return 1 if self.facts is None else self.facts.min_samples

    def measure(
        self, micro_step: Callable[..., Outcome], batch: Mapping[str, Any], sizes: tuple[int, ...], read: Sequence[str]
    ) -> None:
        """Probe the step forward on a few samples; nothing is updated, everything random is put back.

        Raises:
            BatchError: The step does not run on so few samples, or a name of `read` cannot be put together.

        """
        __tracebackhide__ = True
        samples, sources = sum(sizes), self.sources(micro_step, batch)
        last: dict[str, Any] = {}

        def forward(count: int) -> Outcome:
            __tracebackhide__ = True
            pieces = self.first(batch, count, samples)
            roots, values = micro_step(*pieces.values())
            last.update(roots=roots, pieces=pieces)
            return roots, values

        def copied() -> Outcome:
            __tracebackhide__ = True
            return micro_step(*self._copies(batch, PROBE_SAMPLES, samples).values())

        self.pairwise, self.calls = (), None
        facts, failure = self._attempted(forward, sources, copied)
        if failure is not None and self.replay != "never":
            self.pairwise = pairwise_names(batch, self.divided or (), samples)
            facts, _ = self._attempted(forward, sources, copied) if self.pairwise else (None, None)
        if facts is not None:
            self.find_targets(facts, last["roots"], last["pieces"], batch)
            last.clear()
            if is_to_replay(self.replay, facts, batch.values()):
                self.calls = calls_to_replay(self.where, self.replay, forward, PROBE_SAMPLES, sources)
        if failure is not None and self.calls is None:
            first = [column[0] for column in self.pieces(batch, sizes)]
            probed = (PROBE_SAMPLES, PROBE_SAMPLES + 1)
            Attempt(self.where, micro_step, batch, first, sizes, self.divided or (), probed, sources).explain(failure)
        assert facts is not None  # noqa: S101 - or there was a failure
        self.facts = facts
        self.reasons, self.notes = list(facts.reasons), list(facts.notes)
        if self.calls is not None:  # all values are the whole batch's
            self.reasons = [reason for reason in self.reasons if reason not in facts.unproven]
            self.notes += replay_notes(self.where, facts, self.calls)
            return
        self._check_values(facts, read)
        self.remembering = Remembering(leaf for leaves in facts.values for leaf in leaves)

    def _attempted(
        self, forward: Callable[[int], Outcome], sources: Mapping[str, object], copied: Callable[[], Outcome]
    ) -> tuple[StepFacts | None, Exception | None]:
        __tracebackhide__ = True
        rehearsal = Rehearsal(sources)
        try:
            facts = probe(forward, PROBE_SAMPLES, sources, copied, rehearsal)
        except Exception as error:  # noqa: BLE001 - whoever asks raises it, or explains it
            return None, error
        self.modules = [weakref.ref(module) for module in rehearsal.modules]
        trained = {p: None for module in rehearsal.modules for p in module.parameters() if p.requires_grad}
        self.trained = [weakref.ref(parameter) for parameter in trained]
        self.generators = list(rehearsal.generators)
        return facts, None

    def recall(self, micro_step: Callable[..., Outcome], batch: Mapping[str, Any]) -> Recall | None:
        """Return what puts the state back that a forward pass changes; None where it changes none."""
        if self.facts is None or not (self.facts.draws or self.facts.state_reasons):
            return None
        modules = [module for ref in self.modules if (module := ref()) is not None]
        changes_state = bool(self.facts.state_reasons)
        return Recall(self.facts.draws, changes_state, self.generators, modules, self.sources(micro_step, batch))

    def hand_over(self) -> None:
        """Let the plan learn from the last step that was measured, as soon as the device has done it."""
        if self.pending is not None and self.pending.told():
            self.pending = None

    def learn(self, sizes: tuple[int, ...], measured: Measured | None) -> None:
        """Take a step without a failure."""
        self.plan.ceiling.passed(max(sizes), is_bound=self.plan.is_bound)
        if measured is not None:
            if self.calls is not None:
                measured.was_whole(sizes)
            self.pending = measured
            self.hand_over()

    def modules_in_reach(self, micro_step: Callable[..., Outcome], batch: Mapping[str, Any]) -> list[nn.Module]:
        """Return the modules that the step may call, of one that is not measured; none where code is compiled."""
        if not self.modules:
            found = [v for _, v in reachable(self.sources(micro_step, batch)) if isinstance(v, nn.Module)]
            is_compiled = any(type(m).__name__ == COMPILED or m._compiled_call_impl is not None for m in found)
            self.modules = [] if is_compiled else [weakref.ref(module) for module in found]
        return [module for ref in self.modules if (module := ref()) is not None]

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters within the modules that the forward calls, those that train."""
        return [parameter for ref in self.trained if (parameter := ref()) is not None]

    def sources(self, micro_step: Callable[..., Outcome], batch: Mapping[str, Any]) -> dict[str, object]:
        """Return where the step may keep state: behind the names it reads, the batch's own rows aside."""
        whole = {n: v for n, v in batch.items() if n not in (self.divided or ())}
        return {micro_step.__name__: micro_step, **whole}

    def _check_values(self, facts: StepFacts, read: Sequence[str]) -> None:
        for name, leaves in zip(read, facts.values, strict=False):
            bad = next((f for f in leaves if isinstance(f, Unknown)), None)
            if bad is not None and len(leaves) == 1:
                way_out = (
                    "Compute it once more after the step, on the whole batch and under `torch.no_grad()`."
                    if bad.has_rows
                    else "In place of it, return the predictions, or compute it after the step; or let the step see "
                    "the whole batch: --replay always."
                )
                message = (
                    f"{self.where}: `{name}` is read after the step but cannot be put together from its "
                    f"micro-batches: {bad.reason}. {way_out}"
                )
                raise BatchError(message)

    def _copies(self, batch: Mapping[str, Any], count: int, samples: int) -> dict[str, Any]:
        return {
            name: copies_of_one(value, count, samples, None if name in self.pairwise else self.dim(name))
            if name in (self.divided or ())
            else value
            for name, value in batch.items()
        }

    def first(self, batch: Mapping[str, Any], count: int, samples: int) -> dict[str, Any]:
        """Return the batch's first samples; of what compares each sample with each, those along both dimensions."""
        return {
            name: first_samples(value, count, samples, None if name in self.pairwise else self.dim(name))
            if name in (self.divided or ())
            else value
            for name, value in batch.items()
        }

    def find_targets(
        self,
        facts: StepFacts,
        roots: Sequence[torch.Tensor],
        pieces: Mapping[str, Any],
        batch: Mapping[str, Any],
    ) -> bool:
        """Find the targets of measured losses in the batch, from the graph of a micro-batch.

        Returns:
            Whether all totals that must be known beforehand are. Not that of a loss which has one total only
            and stands alone: all gradients are rescaled by it at the end.

        """
        if self.prepared is None or self.prepared.facts is not facts:
            self.prepared = Prepared.of(facts)
        prepared, before = self.prepared, self.counted
        if not prepared.is_measured:
            self.targets, self.counted = {}, ()
            return True
        dims = {name: self.dim(name) for name in self.divided or ()}
        self.targets = prepared.targets(roots, pieces, batch, dims)
        if not (prepared.needed or before):
            return True
        missing = {key for key in prepared.needed if key not in self.targets}
        known = {key for key in before if key in prepared}  # what once was not in the batch is counted for good
        self.counted = tuple(sorted(missing | known))
        return missing <= known

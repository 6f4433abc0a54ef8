"""What is known of one step of the code: how its batch is split, what the probe found, where its targets lie."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from accum_magic.engine.calls import StudiedCalls
from accum_magic.engine.division import Division
from accum_magic.engine.facts import StepFacts, Unknown
from accum_magic.engine.failure import Attempt
from accum_magic.engine.first_samples import pairwise_names
from accum_magic.engine.measured import Measured
from accum_magic.engine.planner import Asked, Auto
from accum_magic.engine.prepared import Prepared
from accum_magic.engine.probe import probe
from accum_magic.engine.reach import reachable
from accum_magic.engine.remember import Remembering
from accum_magic.engine.replayable import calls_to_replay, is_to_replay, replay_notes
from accum_magic.engine.rescue import Recall, once_more
from accum_magic.engine.targets import Targets
from accum_magic.engine.undo import COMPILED, Rehearsal
from accum_magic.errors import BatchError

PROBE_SAMPLES = 2  # a size of 1 broadcasts, so k = 2 and k + 1 = 3 are the cheapest two that tell
Outcome = tuple[Sequence[torch.Tensor], Sequence[Any]]


@dataclass(slots=True)
class Site(Division):
    """One `step` call of the rewritten code."""

    replay: str = "auto"  # or "always", "never"
    facts: StepFacts | None = None
    calls: StudiedCalls | None = None  # under replay: the module calls that run in chunks
    estimated: tuple[int, ...] = ()  # the sizes of micro-batches that the run knows the activations of
    whole_bytes: int = 0  # under replay: what is kept of the whole batch beside a chunk's activations
    resident_bytes: int = 0  # of the batch, or the data set that it is a view of
    signature: tuple[object, ...] = ()  # the graph the facts were read from
    prepared: Prepared | None = None  # from the facts, for all steps
    targets: dict[tuple[int, int], Targets] = field(default_factory=dict)  # of a root and its part
    counted: tuple[tuple[int, int], ...] = ()  # roots and parts whose totals have to be known beforehand, and are not
    remembering: Remembering = field(default_factory=Remembering)
    plan: Asked | Auto = field(default_factory=Asked)
    plan_facts: StepFacts | None = None  # those that `plan` was made from
    pending: Measured | None = None  # a step whose times the device has not told yet
    reached: tuple[int, int] = (0, 0)  # how many parameters the last step has reached, and the first one's id
    guarded: tuple[float, float, bool] = (0.0, 0.0, False)  # until when, for how many bytes, and whether
    draws: bool | None = None  # whether the forward draws random numbers: by the probe, else by its first whole run
    is_told: bool = False  # the run knows the verdict
    is_reentrant: bool = False  # its backward runs others inside of it: a micro-batch cannot be redone in part
    modules: list[weakref.ref[nn.Module]] = field(default_factory=list)  # that the forward calls
    trained: list[weakref.ref[nn.Parameter]] = field(default_factory=list)  # the parameters within them
    generators: list[torch.Generator] = field(default_factory=list)  # of the user's own, that it draws from
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def min_samples(self) -> int:
        """Samples that a micro-batch must have at least."""
        return 1 if self.facts is None else self.facts.min_samples

    def kept_bytes(self, samples: int) -> float:
        """Return about how many bytes a forward on some samples keeps for its backward, beside the batch itself."""
        if self.facts is None:
            return 0.0
        constant, each = self.facts.saved_bytes
        return max(0.0, constant + each * samples - self.resident_bytes)

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
            return micro_step(*self.copies(batch, PROBE_SAMPLES, samples).values())

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
            first = self.pieces(batch, sizes)[0]
            probed = (PROBE_SAMPLES, PROBE_SAMPLES + 1)
            divided = tuple(self.divided or ())
            Attempt(self.where, micro_step, batch, first, sizes, divided, probed, sources).explain(failure)
        assert facts is not None  # noqa: S101 - or there was a failure
        self.facts, self.draws, self.estimated = facts, facts.draws, ()
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
            facts = once_more(lambda: probe(forward, PROBE_SAMPLES, sources, copied, rehearsal))
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

    def is_reached_anew(self, parameters: Collection[torch.Tensor]) -> bool:
        """Whether a step has reached other parameters than the one before it: there may be a new model."""
        first = id(next(iter(parameters), None))
        is_new = (len(parameters), first) != self.reached
        self.reached = len(parameters), first
        return is_new

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
        self.targets = prepared.targets(roots, pieces, batch, self.divided or {})
        if not (prepared.needed or before):
            return True
        missing = {key for key in prepared.needed if key not in self.targets}
        known = {key for key in before if key in prepared}  # what once was not in the batch is counted for good
        self.counted = tuple(sorted(missing | known))
        return missing <= known

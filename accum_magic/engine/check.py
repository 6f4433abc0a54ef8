"""`--check`: each step of a cell runs at once and in micro-batches, on the same few samples, and is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Literal

import torch
from torch import nn

from accum_magic.engine.backward import Backward
from accum_magic.engine.comparison import (
    ALONE,
    DRAWN,
    SILENCED,
    CheckResult,
    Pair,
    StepCheck,
    rounding_of,
    rows_of,
)
from accum_magic.engine.facts import Unknown
from accum_magic.engine.gradients import SetAside
from accum_magic.engine.probe import eager
from accum_magic.engine.reach import reachable
from accum_magic.engine.run import aside
from accum_magic.engine.silence import Silence
from accum_magic.engine.site import Outcome, Site
from accum_magic.engine.split import flatten, micro_batch_sizes
from accum_magic.engine.step import step
from accum_magic.engine.undo import Rehearsal
from accum_magic.engine.values import Released, detached
from accum_magic.engine.weights import parameters_of
from accum_magic.engine.window import borders

_MICRO_BATCHES = 4  # under `auto`: a check asks whether micro-batches add up, not how many fit
_MOST_STEPS = 6  # that run while others are still to come: a generator's comes behind five of its critic

Gradients = dict[torch.Tensor, torch.Tensor | None]


class Enough(BaseException):  # no error: the way out of a cell, past the `except Exception` of the user
    """All steps of the cell have been checked."""


@dataclass(slots=True)
class Check:
    """The check of one cell; `planned` is how many steps it has."""

    planned: int
    found: dict[object, StepCheck] = field(default_factory=dict)
    steps: int = 0

    def step(
        self,
        site: Site,
        micro_step: Callable[..., Outcome],
        batch: Mapping[str, Any],
        n: int | Literal["auto"] | None,
        options: Mapping[str, Any],
    ) -> None:
        """Compare a step that is new; if others are still to come, the cell goes on with it as it would.

        Raises:
            Enough: All steps have been checked.
            BatchError: As a run would.

        """
        __tracebackhide__ = True
        code = micro_step.__code__
        if code not in self.found and self.steps < _MOST_STEPS:
            count = _MICRO_BATCHES if n == "auto" else n
            self.found[code] = _Comparison(site, micro_step, batch, count, options).made()
        self.steps += 1
        if len(self.found) >= self.planned or self.steps >= _MOST_STEPS:
            raise Enough

    def result(self, notes: Sequence[str]) -> CheckResult:
        """Return what was found."""
        missing = self.planned - len(self.found) if self.found else 0
        others = [f"{missing} more of the cell's steps did not run"] if missing else []
        return CheckResult(tuple(self.found.values()), (*others, *notes))


@dataclass(frozen=True, slots=True)
class _Way:
    """What a step leaves, run one way."""

    gradients: Gradients
    values: Sequence[Any]
    drew: bool


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One step, run both ways on the first samples of its batch; gradients and state stay as they are."""

    site: Site
    micro_step: Callable[..., Outcome]
    batch: Mapping[str, Any]
    n: int | None
    options: Mapping[str, Any]

    def made(self) -> StepCheck:
        __tracebackhide__ = True
        samples = self.site.samples(self.batch)
        count, n = self._size(samples)
        if count < samples:  # how the first samples are taken, the probe of the whole batch tells
            self.site.measure(self.micro_step, self.batch, (count, samples - count), self.options["read"])
        batch = self._first(samples, count)
        before = SetAside()
        try:
            with eager(), Silence() as silence:
                plain = self._at_once(batch, before)
                silence.go_on()
                ours, reasons, notes = self._in_micro_batches(batch, n, plain.gradients)
        finally:
            before.restore()
        tensors = [*plain.gradients, *_tensors(plain.values)]
        rounding = rounding_of(tensors, is_autocast=silence.is_autocast)
        said = ((SILENCED, silence.has_silenced), (DRAWN, plain.drew or ours.drew), (ALONE, n == 1))
        notes = (*(note for note in notes if not note.startswith("random ")), *(text for text, is_so in said if is_so))
        rows = rows_of([*self._gradients(plain, ours, batch), *self._values(plain, ours)], rounding.floor)
        return StepCheck(self.site.where, count, samples, n, rounding.tolerance, rows, reasons, notes)

    def _size(self, samples: int) -> tuple[int, int]:
        """Return how many samples fit, which one micro-batch of the run has, and how many micro-batches they make."""
        borders_ = borders(samples) if self.options["window"] else None
        sizes = borders_ or micro_batch_sizes(samples, self.n, self.options["size"])
        count = min(sizes[0] if borders_ else samples, max(sizes[0], 2 * len(sizes)))
        return count, min(count, len(sizes))

    def _first(self, samples: int, count: int) -> dict[str, Any]:
        """Return the first samples; of what was computed before the step a leaf, since its graph runs only once."""
        batch = self.site.first(self.batch, count, samples)
        for name, value in batch.items():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None and name not in (self.site.divided or ()):
                batch[name] = value.detach().requires_grad_()
        return batch

    def _sources(self, batch: Mapping[str, Any]) -> dict[str, object]:
        whole = {name: value for name, value in batch.items() if name not in (self.site.divided or ())}
        return {**whole, self.micro_step.__name__: self.micro_step}

    def _at_once(self, batch: Mapping[str, Any], before: SetAside) -> _Way:
        """Run the step as the plain cell would."""
        __tracebackhide__ = True
        backward = Backward(self.options["backward"], self.options["backward_options"])
        with Rehearsal(self._sources(batch)) as rehearsal:
            roots, values = self.micro_step(*batch.values())
            leaves = list(parameters_of(roots))
            before.take(leaves)
            for which, root in enumerate(roots):
                backward(which, root, None)
            gradients = _taken(leaves)
            values = [detached(value) for value in values]
        return _Way(gradients, values, rehearsal.drew)

    def _in_micro_batches(
        self, batch: Mapping[str, Any], n: int, leaves: Iterable[torch.Tensor]
    ) -> tuple[_Way, tuple[str, ...], tuple[str, ...]]:
        """Run the step as a run would; return why that is approximate, and its notes, too."""
        __tracebackhide__ = True
        options = {**self.options, "size": None, "window": False, "undoable": False}
        with aside() as run, Rehearsal(self._sources(batch)) as rehearsal:
            known = replace(self.site, facts=None, signature=(), targets={}, reasons=[], notes=[])
            run.sites[self.micro_step.__code__] = known  # which names are split is known from the whole batch
            if n > 1:
                options |= self._read_all(known, batch, n)
            values = step(self.micro_step, batch, n=n, **options)
            gradients = _taken(leaves)
            summary = run.summary()
        return _Way(gradients, values, rehearsal.drew), summary.reasons, summary.notes

    def _read_all(self, site: Site, batch: Mapping[str, Any], n: int) -> dict[str, tuple[str, ...]]:
        """Have outputs joined that the cell does not read, too, where they can be: those of few samples are small."""
        __tracebackhide__ = True
        read, unread = self.options["read"], self.options["unread"]
        site.measure(self.micro_step, batch, micro_batch_sizes(site.samples(batch), n, None), read)
        facts = site.facts.values[len(read) :] if site.facts is not None else ()
        known = list(takewhile(lambda leaves: not any(isinstance(f, Unknown) for f in leaves), facts))
        return {"read": (*read, *unread[: len(known)]), "unread": unread[len(known) :]}

    def _gradients(self, plain: _Way, ours: _Way, batch: Mapping[str, Any]) -> Iterator[Pair]:
        names = _names(self._sources(batch), self.micro_step)
        for leaf, gradient in plain.gradients.items():
            name = names.get(id(leaf), f"a tensor of {'×'.join(map(str, leaf.shape)) or 'one number'}")
            yield Pair("gradient", name, gradient, ours.gradients[leaf])

    def _values(self, plain: _Way, ours: _Way) -> Iterator[Pair]:
        names = (*self.options["read"], *self.options["unread"])
        for name, left, right in zip(names, plain.values, ours.values, strict=True):
            lefts, rights = _numbers(left), _numbers(right)
            for key, one in lefts.items():
                if key in rights:
                    yield Pair("loss" if one.numel() == 1 else "output", name + key, one, rights[key])


def _taken(leaves: Iterable[torch.Tensor]) -> Gradients:
    """Take the gradients off their leaves."""
    gradients: Gradients = {}
    for leaf in leaves:
        gradients[leaf] = leaf.grad
        leaf.grad = None
    return gradients


def _numbers(value: Any) -> dict[str, torch.Tensor]:
    """Return the tensors and numbers in a value by where they stand in it; none of one that was not kept."""
    if isinstance(value, Released):
        return {}
    leaves = flatten(value)[0]
    named = {f"[{i}]" if len(leaves) > 1 else "": leaf for i, leaf in enumerate(leaves)}
    kinds = (torch.Tensor, int, float)
    return {k: torch.as_tensor(v) for k, v in named.items() if isinstance(v, kinds) and not isinstance(v, Released)}


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    return [tensor for value in values for tensor in _numbers(value).values()]


def _names(sources: Mapping[str, object], micro_step: Callable[..., Outcome]) -> dict[int, str]:
    """Return what the user calls each tensor that trains, by id: `model.0.weight`."""
    names: dict[int, str] = {}
    for label, value in reachable(sources):
        if isinstance(value, nn.Module):
            for inner, parameter in value.named_parameters():
                names.setdefault(id(parameter), f"{label}.{inner}")
        elif isinstance(value, torch.Tensor):
            names.setdefault(id(value), label)
    known = {**micro_step.__globals__, **sources}
    tensors = {id(v): n for n, v in known.items() if isinstance(v, torch.Tensor) and not n.startswith("_")}
    return tensors | names

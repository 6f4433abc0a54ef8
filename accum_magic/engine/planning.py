"""Before each step: how its batch is cut, what is measured while it runs, and whether a budget is watched."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple

import torch

from accum_magic.engine.clock import clock_of
from accum_magic.engine.fastest import Search
from accum_magic.engine.measured import Measured
from accum_magic.engine.pending import missing_state, update_bytes
from accum_magic.engine.planner import Asked, Auto, Memory, Sizes, remembered, resident_bytes, unit_of
from accum_magic.engine.room import PEAK_OVER_SAVED, Room
from accum_magic.engine.run import Run
from accum_magic.engine.site import PROBE_SAMPLES, Outcome, Site
from accum_magic.engine.split import cut, micro_batch_sizes
from accum_magic.engine.window import borders

_LOOKED_AT_EVERY_S = 0.1
_WATCHED_FROM = 0.5  # of what is free: a micro-batch that needs more may burst the budget


class Cut(NamedTuple):
    """The micro-batches of one step."""

    sizes: Sizes
    guard_bytes: int | None = None
    """The budget, where it is to be watched while a micro-batch runs."""
    measured: Measured | None = None
    """What `auto` learns from the step."""
    update_bytes: int = 0
    """What the first update will take, where it makes the optimizer's state."""


@dataclass(slots=True)
class Planning:
    """One step, before it runs."""

    run: Run
    site: Site
    micro_step: Callable[..., Outcome]
    batch: Mapping[str, Any]
    read: tuple[str, ...]

    def cut(self, n: int | Literal["auto"] | None, size: int | None, *, window: bool) -> Cut:
        """Measure the step if it is new, and decide how its batch is cut.

        Raises:
            BatchError: The batch cannot be split as planned; nothing has run.

        """
        __tracebackhide__ = True
        samples = self.site.samples(self.batch)
        if not torch.is_grad_enabled():
            return Cut((samples,))  # `backward` then raises, as it does in the plain cell
        if n == "auto":
            return self._auto(samples)
        sizes = self._asked(samples, n, size, window=window)
        if len(sizes) == 1:
            return Cut(sizes, self.run.budget.bytes if self.run.memory.is_asked else None)
        self._measure(sizes)
        sizes = self._large_enough(sizes)
        return Cut(sizes, self._guard(PEAK_OVER_SAVED * self.site.kept_bytes(max(sizes))))

    def _asked(self, samples: int, n: int | None, size: int | None, *, window: bool) -> Sizes:
        plan = self.site.plan
        if not isinstance(plan, Asked):
            plan = self.site.plan = Asked()
        at_borders = borders(samples) if window else None
        if at_borders is not None:
            plan.is_bound = False
            return tuple(chain.from_iterable(plan.under(k) for k in at_borders))
        if n is not None and samples < n and not window:
            self.run.note(f"the batch has fewer samples than N = {n}: one micro-batch per sample")
        return plan.cut(samples, n, size)

    def _measure(self, sizes: Sizes) -> None:
        __tracebackhide__ = True
        if self.site.facts is None:
            self.site.measure(self.micro_step, self.batch, sizes, self.read)
            self.site.resident_bytes = resident_bytes(self.batch, self.site.divided or ())

    def _large_enough(self, sizes: Sizes) -> Sizes:
        least = self.site.min_samples
        if min(sizes) >= least:
            return sizes
        samples = sum(sizes)
        self.run.note(f"micro-batches have {least} samples at least: BatchNorm or squeeze() needs them")
        return micro_batch_sizes(samples, max(1, samples // least), None)

    def _guard(self, needed_bytes: float) -> int | None:
        """Return the budget where a micro-batch comes near it and the device itself would not stop it there."""
        run, now_s = self.run, time.monotonic()
        until_s, looked_for, is_guarded = self.site.guarded
        if now_s >= until_s or needed_bytes > looked_for:
            is_guarded = run.memory.is_watched and needed_bytes > _WATCHED_FROM * (
                run.budget.bytes - run.meter.now_bytes()
            )
            self.site.guarded = now_s + _LOOKED_AT_EVERY_S, needed_bytes, is_guarded
        return run.budget.bytes if is_guarded else None

    def _auto(self, samples: int) -> Cut:
        __tracebackhide__ = True
        run, site = self.run, self.site
        self._measure(cut(samples, PROBE_SAMPLES))
        if not run.steps:
            run.memory.reach(site.parameters())  # the batch may be moved to the device within the step
        unit = unit_of(self.batch, site.divided or (), samples)
        is_first = site.plan_facts is None  # of this step in this run; a GAN's second step has an optimizer of its own
        plan, parameters = self._plan(unit), site.parameters()
        pending = missing_state(parameters, self.micro_step.__globals__) if is_first else 0
        budget, update = run.meter.now_bytes() + run.free_bytes(), 0
        if run.memory.device.type == "cpu":  # it comes on top of what micro-batches have freed, which the process keeps
            update = update_bytes(parameters)
            budget -= update
        memory = Memory(run.meter, budget, pending, parameters)
        site.hand_over()
        sizes = plan.plan(samples, unit, memory)
        guard = self._guard(plan.room.needed(max(sizes), unit))
        measured = plan.is_measuring(unit, max(sizes))
        learns = Measured(plan, unit, memory, clock_of(run.memory.device)) if measured else None
        return Cut(sizes, guard, learns, pending + update if pending else 0)

    def _plan(self, unit: float) -> Auto:
        """Return the plan of the step, which may have been learnt in an earlier run."""
        site, facts = self.site, self.site.facts
        assert facts is not None  # noqa: S101 - it is measured
        if isinstance(site.plan, Auto) and site.plan_facts is facts:
            return site.plan
        code = self.micro_step.__code__
        model = facts.saved_bytes, facts.roots, site.calls is None, bool(site.reasons)
        key = (code.co_code, code.co_names, *model, unit, self.run.memory.device)
        constant, each = facts.saved_bytes
        constant -= site.resident_bytes
        is_free = not site.reasons  # the micro-batches' size changes an approximate result

        def made() -> Auto:
            search = Search(site.min_samples, by_steps=site.calls is not None) if is_free else None
            return Auto(Room(max(constant, 0.0), each, unit), search, site.min_samples)

        site.plan, site.plan_facts = remembered(key, made), facts
        return site.plan

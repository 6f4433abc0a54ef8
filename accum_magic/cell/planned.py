"""What a plan says, as frozen values: for each triple of a cell what runs when, what goes in and what comes out."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from accum_magic.cell.batch import BatchNames
from accum_magic.cell.effects import root
from accum_magic.cell.hoist import Hoist
from accum_magic.cell.parse import ParsedCell, Place
from accum_magic.cell.recognise import BackwardCall
from accum_magic.cell.regions import Placement, Region, Slice
from accum_magic.cell.units import Fork, Unit


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the user says about the cell: the batch's names or expressions, and batch dimensions other than 0."""

    batch: tuple[str, ...] = ()
    dims: tuple[tuple[str, int], ...] = ()

    @property
    def declared(self) -> frozenset[str]:
        """Paths that `--batch` declares to hold all of the batch: `x`, `batch` of `batch["ids"]`, `self.xb`."""
        return frozenset(b.partition("[")[0] for b in self.batch)

    @property
    def named(self) -> frozenset[str]:
        """Names that the user says hold something per sample; `--dim` leaves open what else does."""
        return frozenset(map(_name_in, self.batch)) | {root(name) for name, _ in self.dims}

    def within(self, names: frozenset[str]) -> PlanOptions:
        """Return what is said about some names only."""
        batch = tuple(b for b in self.batch if _name_in(b) in names)
        return PlanOptions(batch, tuple((name, dim) for name, dim in self.dims if root(name) in names))


def _name_in(expression: str) -> str:
    """Return the name that `batch["ids"]` or `batch.text` is taken from."""
    return root(expression.partition("[")[0])


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One triple before / loop / after, in a run of statements of one list."""

    places: tuple[Place, ...]  # down to the list
    start: int
    stop: int  # the triple covers statements start to stop - 1 of the list
    cut: Slice
    placement: Placement
    common: tuple[Fork, ...]  # `with` and `if` that hold all of the step, and stay around it
    hoists: tuple[Hoist, ...]
    backwards: tuple[BackwardCall, ...]
    roots: tuple[tuple[BackwardCall, ...], ...]  # the losses; each has a backward in every branch that it may run in
    conditions: tuple[tuple[Fork, ...], ...]  # the branches under which the backwards run; none where they always do
    awaited: frozenset[ast.stmt]  # `if`s around a backward that test the full loss: they are asked after the loop
    batch: BatchNames
    dims: tuple[tuple[str, int | None], ...]  # batch dimensions that are not 0; None where the value's shape tells
    read: tuple[str, ...]
    unread: tuple[str, ...]
    unknown_callees: frozenset[str]
    batch_norms: tuple[str, ...]  # BatchNorm layers in training mode, as far as the namespace tells

    @property
    def body(self) -> list[ast.stmt]:
        """The statements of the triple."""
        return self.places[-1].body[self.start : self.stop]

    @property
    def micro_units(self) -> list[Unit]:
        """The units of the micro step, in source order."""
        return [u for u in self.cut.units if self.placement.runs_in(u, Region.MICRO)]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done to a cell."""

    parsed: ParsedCell
    options: PlanOptions
    steps: tuple[StepPlan, ...]

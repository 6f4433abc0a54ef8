"""What a check has found: each gradient and value of a step, computed plainly and in micro-batches."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

Kind = Literal["gradient", "loss", "output"]
SILENCED = "dropout was switched off for both"
DRAWN = "the step draws random numbers, which need not be the same both times: differences may come from them"
ALONE = "the step runs in a single micro-batch, which is the plain step"
MOST_ROWS = 12


class Rounding(NamedTuple):
    """What is taken for rounding: a relative difference up to `tolerance`.

    Nothing is measured against less than `floor` of the largest value of its kind: a gradient that is zero in theory,
    such as that of the bias of attention's keys, is rounding as a whole. The two together allow some ten units in the
    last place of the largest value; with a floor of 1e-4 in single precision such a bias was a thousandth apart.
    """

    tolerance: float
    floor: float


_DOUBLE, _SINGLE, _COARSE = Rounding(1e-9, 1e-4), Rounding(1e-4, 2e-2), Rounding(5e-2, 0.5)
_ROUNDING = {torch.float64: _DOUBLE, torch.complex128: _DOUBLE, torch.float32: _SINGLE, torch.complex64: _SINGLE}


@dataclass(frozen=True, slots=True)
class Pair:
    """One tensor, computed both ways; None where a way has none."""

    kind: Kind
    name: str
    plain: torch.Tensor | None
    ours: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class CheckRow:
    """How far apart one gradient or value is."""

    kind: Kind
    name: str
    shape: tuple[int, ...]
    difference: float
    """max|plain - ours| over max|plain|, or over the floor of its kind where that is larger."""


@dataclass(frozen=True, slots=True)
class StepCheck:
    """One step of a cell, run both ways on the same samples; rows with the largest difference come first."""

    where: str
    samples: int
    of_samples: int
    micro_batches: int
    tolerance: float
    rows: tuple[CheckRow, ...]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def largest(self) -> float:
        """The largest relative difference."""
        return self.rows[0].difference if self.rows else 0.0

    @property
    def is_same(self) -> bool:
        """Whether all differences are rounding."""
        return self.largest <= self.tolerance

    def heading(self) -> str:
        """Return the verdict in a line."""
        verdict = "same" if self.is_same else "different"
        parts = "1 micro-batch" if self.micro_batches == 1 else f"{self.micro_batches:,} micro-batches"
        return (
            f"{self.where}: {verdict} · {self.samples:,} of {self.of_samples:,} samples at once and in {parts} · "
            f"largest relative difference {_told(self.largest)} (rounding: up to {self.tolerance:.0e})"
        )

    def remarks(self) -> list[str]:
        """Return the reasons and notes that a run would give."""
        found = [f"approximate: {reason}" for reason in self.reasons]
        if not self.is_same and not self.reasons and DRAWN not in self.notes:
            found = ["no reason is known: a run would call this step exact"]
        return [*found, *(f"note: {note}" for note in self.notes)]

    def shown(self) -> list[tuple[str, str, str, str]]:
        """Return the cells of the table's first rows."""
        return [(row.kind, row.name, str(row.shape), _told(row.difference)) for row in self.rows[:MOST_ROWS]]

    def rest(self) -> str:
        """Say how many rows are not shown."""
        more = len(self.rows) - MOST_ROWS
        return f"and {more} more, none further apart" if more > 0 else ""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What `--check` tells: each step of the cell that ran, at once and in micro-batches.

    >>> row = CheckRow("gradient", "model.weight", (3, 4), 2e-16)
    >>> print(CheckResult((StepCheck("line 4", 8, 10, 4, 1e-9, (row,), (), ()),), ()))
    accum_magic: same · nothing was trained, all state is as it was
    line 4: same · 8 of 10 samples at once and in 4 micro-batches · largest relative difference 2.0e-16 (rounding: up to 1e-09)
      gradient  model.weight  (3, 4)  2.0e-16
    """  # noqa: E501 - the line as it is printed

    steps: tuple[StepCheck, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Literal["same", "different", "unchecked"]:
        """Whether all differences of all steps are rounding; "unchecked" where no step has run."""
        if not self.steps:
            return "unchecked"
        return "same" if all(step.is_same for step in self.steps) else "different"

    def _heading(self) -> str:
        if not self.steps:
            return "accum_magic: no training step has run, so there was nothing to check; all state is as it was"
        return f"accum_magic: {self.verdict} · nothing was trained, all state is as it was"

    def __str__(self) -> str:
        """Return the verdict, and of each step a line, a table and the reasons."""
        lines = [self._heading()]
        for step in self.steps:
            table = step.shown()
            widths = [max(map(len, column)) for column in zip(*table, strict=True)]
            rows = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
            below = [*rows, *filter(None, [step.rest()]), *step.remarks()]
            lines += [step.heading(), *(f"  {line}" for line in below)]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:  # noqa: FBT001 - IPython's protocol
        printer.text("..." if cycle else str(self))  # type: ignore[attr-defined]

    def _repr_html_(self) -> str:
        return "".join(
            [f"<p><b>{html.escape(self._heading())}</b></p>", *map(_html_of, self.steps), _html_list(self.notes)]
        )


def _told(difference: float) -> str:
    return f"{difference:.1e}" if difference else "0"


def _html_of(step: StepCheck) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("", "name", "shape", "largest relative difference"))
    rows = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in step.shown())
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<p>{html.escape(step.heading())}</p>{table}{_html_list([*filter(None, [step.rest()]), *step.remarks()])}"


def _html_list(texts: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>" if texts else ""


def rows_of(pairs: Sequence[Pair], floor: float) -> tuple[CheckRow, ...]:
    """Return how far apart pairs of tensors are, the furthest first; `floor` as in `Rounding`."""
    gradients = max((_size(p.plain) for p in pairs if p.kind == "gradient"), default=0.0)
    values = max((_size(p.plain) for p in pairs if p.kind != "gradient"), default=0.0)
    rows = [_row(p, floor * (gradients if p.kind == "gradient" else values)) for p in pairs]
    return tuple(sorted(rows, key=lambda row: -row.difference))


def rounding_of(tensors: Sequence[torch.Tensor], *, is_autocast: bool) -> Rounding:
    """Return what rounding may come to: a step is as exact as the coarsest dtype in it."""
    found = [_ROUNDING.get(t.dtype, _COARSE) for t in tensors if t.is_floating_point() or t.is_complex()]
    return max([_COARSE] if is_autocast else found, default=_DOUBLE)


def _row(pair: Pair, floor: float) -> CheckRow:
    known = pair.plain if pair.plain is not None else pair.ours
    shape = () if known is None else tuple(known.shape)
    return CheckRow(pair.kind, pair.name, shape, _difference(pair.plain, pair.ours, floor))


def _difference(plain: torch.Tensor | None, ours: torch.Tensor | None, floor: float) -> float:
    if plain is None or ours is None:  # no gradient at all is a gradient of zero
        return math.inf if _size(plain if ours is None else ours) else 0.0
    if plain.shape != ours.shape:
        return math.inf
    left, right = _exact(plain), _exact(ours)
    is_same = (left == right) | (left.isnan() & right.isnan())
    apart = torch.where(is_same, torch.zeros_like(left), left - right).abs()
    largest = float(apart.max()) if apart.numel() else 0.0
    if math.isnan(largest):  # a number on one side only
        return math.inf
    return largest / max(_size(plain), floor) if largest and max(_size(plain), floor) else math.inf if largest else 0.0


def _exact(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().cpu()
    tensor = tensor.to_dense() if tensor.layout is not torch.strided else tensor
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _size(tensor: torch.Tensor | None) -> float:
    if tensor is None or not tensor.numel():
        return 0.0
    finite = _exact(tensor)
    return float(torch.where(finite.isfinite(), finite, torch.zeros_like(finite)).abs().max())

"""The chart of a finished run as an SVG image: memory, loss, and what the peak was used for.

It is shown by an `<img>`, which no sanitiser drops, and knows nothing of the page around it: JupyterLab's themes do not
set `color-scheme`, so that an image is told the system's instead. Therefore it brings a light card of its own, as plots
in notebooks do. It is drawn at the size of a narrow page, since text that shrinks with its image cannot be read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TypeAlias

Points: TypeAlias = Sequence[tuple[float, float]]

MOST_POINTS = 200  # of a curve: more than one in two pixels
MIB = 2**20
_WIDTH, _GAP = 364, 12  # of the card; the gap to what stands beside and below it is part of the image
_MARGIN = 14
_LEFT, _RIGHT = 54, _WIDTH - _MARGIN  # of the plots
_MEMORY_HEIGHT, _LOSS_HEIGHT = 96, 56
_IN_SCALE = 2.0  # a line that lies further above the curve would flatten it, and is named at the top instead
_LABEL_HEIGHT = 12
_LARGEST = 1e100  # of a number that can still be drawn
_CURVE, _BUDGET, _PLAIN = "#1976d2", "#d32f2f", "#212121"  # as in the panel, in JupyterLab's light theme
_PARTS = {
    "parameters": "#4a7fc1",
    "gradients": "#c2703a",
    "optimizer_state": "#8f6bb8",
    "activations": "#3f8f76",
    "other": "#838383",
}
_STYLE = (
    "text{font:11px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#5f6368}"
    "text.title{font-weight:600;font-size:12px;fill:#212121}"
    "text.on{paint-order:stroke;stroke:#fafafa;stroke-width:3px;stroke-linejoin:round}"
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is drawn: memory in MiB and loss, by step; the other sizes in bytes, None where unknown."""

    memory: Points
    losses: Points
    loss: str = ""
    """The first and the last loss."""
    peak_bytes: float | None = None
    limit_bytes: float | None = None
    plain_bytes: float | None = None
    footprint: Mapping[str, float] = field(default_factory=dict)


def mebibytes(count: float) -> str:
    """Return a size as people read it.

    >>> mebibytes(2**30), mebibytes(3 * 2**19), mebibytes(100)
    ('1,024 MiB', '1.5 MiB', '<0.1 MiB')
    """
    size = count / MIB
    if 0 < size < 0.05:  # noqa: PLR2004 - what would be rounded to nothing
        return "<0.1 MiB"
    return f"{size:,.0f} MiB" if size >= 9.95 or not size else f"{size:.1f} MiB"  # noqa: PLR2004 - two digits in any case


def drawable(points: Points) -> list[tuple[float, float]]:
    """Return the points that have a place in a chart: NaN and infinity have none."""
    return [point for point in points if all(math.isfinite(v) and abs(v) < _LARGEST for v in point)]


def decimated(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Return at most `most` of the points, with the first, the last, and every stretch's lowest and highest.

    >>> decimated([(step, float(step == 500)) for step in range(1000)], 6)
    [(0, 0.0), (1, 0.0), (500, 1.0), (501, 0.0), (999, 0.0)]
    """
    if len(points) <= most:
        return list(points)
    stretches = (most - 2) // 2
    inner = points[1:-1]
    kept = [points[0]]
    for index in range(stretches):
        stretch = range(len(inner) * index // stretches, len(inner) * (index + 1) // stretches)
        lowest, highest = (choose(stretch, key=lambda i: inner[i][1]) for choose in (min, max))
        kept += [inner[i] for i in sorted({lowest, highest})]
    return [*kept, points[-1]]


def result_svg(figures: Figures) -> str | None:
    """Return the image, None where nothing is known that could be drawn."""
    memory = decimated([point for point in drawable(figures.memory) if point[1] >= 0])
    losses = decimated(drawable(figures.losses))
    parts = {name: figures.footprint.get(name) or 0 for name in _PARTS}
    body: list[str] = []
    height = 8
    if memory:
        height = _extend(body, _memory_plot(memory, figures, height), height + 60 + _MEMORY_HEIGHT)
    if losses:
        height = _extend(body, _loss_plot(losses, figures.loss, height), height + 56 + _LOSS_HEIGHT)
    if any(parts.values()):
        legend_rows = (sum(1 for size in parts.values() if size) + 1) // 2
        height = _extend(body, _footprint_bar(parts, height), height + 40 + 17 * legend_rows)
    return _card(body, height + 12) if body else None


def _extend(body: list[str], elements: Iterator[str], height: int) -> int:
    body.extend(elements)
    return height


def _card(body: list[str], height: int) -> str:
    width, tall = _WIDTH + _GAP, height + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{tall}" viewBox="0 0 {width} {tall}">'
        f"<style>{_STYLE}</style>"
        f'<rect x=".5" y=".5" width="{_WIDTH - 1}" height="{height - 1}" rx="4" fill="#fafafa" stroke="#e0e0e0"/>'
        f"{''.join(body)}</svg>"
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values to places."""

    low: float
    high: float
    start: float = _LEFT
    end: float = _RIGHT

    def __call__(self, value: float) -> float:
        if self.high == self.low:
            return (self.start + self.end) / 2
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def _memory_plot(points: Points, figures: Figures, top: int) -> Iterator[str]:
    """Points are taken by time, many in a long step: they stand side by side in their order."""
    highest = max(value for _, value in points)
    plain = _Line("plain cell about", figures.plain_bytes or 0.0, _PLAIN, "4 3", "start")
    budget = _Line("budget", figures.limit_bytes or 0.0, _BUDGET, "none", "end")
    known = [line for line in (plain, budget) if line.size]
    near = [line.mebibytes for line in known if line.is_near(highest)]
    ceiling = max([highest, *near]) or 1.0
    x = _Axis(0, len(points) - 1)
    floor = _floor(min(value for _, value in points), ceiling)
    y = _Axis(floor, ceiling + 0.08 * (ceiling - floor), top + 38 + _MEMORY_HEIGHT, top + 38)
    yield _text(_MARGIN, top + 14, f"Memory, from {floor:,.0f} MiB up" if floor else "Memory", "title")
    if figures.peak_bytes is not None:
        yield _text(_RIGHT, top + 14, f"peak {mebibytes(figures.peak_bytes)}", anchor="end")
    yield from _grid(y, _ticks(floor, ceiling), "{:,.10g}")
    ordered = [(index, value) for index, (_, value) in enumerate(points)]
    path = _path(ordered, x, y)
    yield f'<path d="{path}V{y(floor):.1f}H{x(0):.1f}Z" fill="{_CURVE}" fill-opacity=".14"/>'
    yield _curve(path, ordered, x, y)
    for line in known:
        yield from line.across(y, near) if line.is_near(highest) else line.named(top + 32)
    yield from _step_labels(points, top + 38 + _MEMORY_HEIGHT)


def _floor(least: float, ceiling: float) -> float:
    """Return where the scale begins, as the panel does: on a CPU the libraries fill most of it.

    >>> _floor(10.0, 100.0), _floor(340.0, 400.0)
    (0.0, 325.0)
    """
    return least - (ceiling - least) / 4 if ceiling > least > ceiling / 2 else 0.0


@dataclass(frozen=True, slots=True)
class _Line:
    """A level that the memory curve is held against, with its label at one end."""

    name: str
    size: float
    color: str
    dashes: str
    anchor: str

    @property
    def mebibytes(self) -> float:
        return self.size / MIB

    @property
    def _label(self) -> str:
        return f"{self.name} {mebibytes(self.size)}"

    @property
    def _end(self) -> int:
        return _LEFT if self.anchor == "start" else _RIGHT

    def is_near(self, highest: float) -> bool:
        return self.mebibytes <= _IN_SCALE * highest

    def across(self, y: _Axis, levels: Sequence[float]) -> Iterator[str]:
        """The line with its label above it, or below where another line would strike it through."""
        place = y(self.mebibytes)
        is_crowded = any(0 < place - y(level) < _LABEL_HEIGHT for level in levels)
        yield (
            f'<path d="M{_LEFT} {place:.1f}H{_RIGHT}" stroke="{self.color}" stroke-width="1.2" '
            f'stroke-dasharray="{self.dashes}"/>'
        )
        yield _text(self._end, place + (_LABEL_HEIGHT if is_crowded else -4), self._label, "on", self.anchor)

    def named(self, place: int) -> Iterator[str]:
        """The label alone, for a level above the chart."""
        yield _text(self._end, place, f"↑ {self._label}", anchor=self.anchor)


def _loss_plot(points: Points, told: str, top: int) -> Iterator[str]:
    low, high = (choose(value for _, value in points) for choose in (min, max))
    x = _Axis(points[0][0], points[-1][0])
    y = _Axis(low, high, top + 28 + _LOSS_HEIGHT, top + 28)
    yield _text(_MARGIN, top + 14, "Loss", "title")
    yield _text(_RIGHT, top + 14, told, anchor="end")
    yield from _grid(y, _ticks(low, high), "{:.4g}")
    yield _curve(_path(points, x, y), points, x, y)
    yield from _step_labels(points, top + 34 + _LOSS_HEIGHT)


def _step_labels(points: Points, top: int) -> Iterator[str]:
    first, last = points[0][0], points[-1][0]
    yield _text(_LEFT, top + 14, f"step {first:,.0f}")
    if last != first:
        yield _text(_RIGHT, top + 14, f"{last:,.0f}", anchor="end")


def _footprint_bar(parts: Mapping[str, float], top: int) -> Iterator[str]:
    yield _text(_MARGIN, top + 20, "What the peak holds", "title")
    total = sum(parts.values())
    left, row = float(_MARGIN), 0
    for name, size in parts.items():
        if not size:
            continue
        color = _PARTS[name]
        width = (_RIGHT - _MARGIN) * size / total
        if width >= 0.5:  # noqa: PLR2004 - half a pixel can be seen
            yield f'<rect x="{left:.1f}" y="{top + 28}" width="{max(width - 1, 0.5):.1f}" height="10" fill="{color}"/>'
        left += width
        column, line = _MARGIN + 172 * (row % 2), top + 56 + 17 * (row // 2)
        yield f'<rect x="{column}" y="{line - 8}" width="8" height="8" rx="1" fill="{color}"/>'
        yield _text(column + 14, line, f"{name.replace('_', ' ')} {mebibytes(size)}")
        row += 1


def _grid(y: _Axis, ticks: Sequence[float], form: str) -> Iterator[str]:
    for tick in ticks:
        yield f'<path d="M{_LEFT} {y(tick):.1f}H{_RIGHT}" stroke="#e0e0e0"/>'
        yield _text(_LEFT - 6, y(tick) + 4, form.format(tick), anchor="end")


def _ticks(low: float, high: float) -> list[float]:
    """Return up to five round numbers between two numbers.

    >>> _ticks(0.0, 824.0), _ticks(0.31, 2.4)
    ([0.0, 250.0, 500.0, 750.0], [1.0, 2.0])
    """
    rough = (high - low) / 4
    if rough < 1 / _LARGEST:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [number * step for number in range(first, last + 1)]


def _path(points: Points, x: _Axis, y: _Axis) -> str:
    return "M" + "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in points)


def _curve(path: str, points: Points, x: _Axis, y: _Axis) -> str:
    if len(points) == 1:
        (step, value), *_ = points
        return f'<circle cx="{x(step):.1f}" cy="{y(value):.1f}" r="3" fill="{_CURVE}"/>'
    return f'<path d="{path}" fill="none" stroke="{_CURVE}" stroke-width="1.6" stroke-linejoin="round"/>'


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'

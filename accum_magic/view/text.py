"""The text view: one line that updates in place while the cell runs, and one closing line with the verdict."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

from accum_magic.view.closing import Closing
from accum_magic.view.publisher import Publisher

REFRESH_S = 0.2  # five times a second: no measurable loss of training speed


class Counters(Protocol):
    """What the line shows; the engine's snapshot has it."""

    @property
    def steps(self) -> int:
        """Steps whose gradients are complete."""

    @property
    def total_steps(self) -> int | None:
        """Steps the cell will take, where that is known."""

    @property
    def micro_batch(self) -> int:
        """The running micro-batch, 1-based."""

    @property
    def micro_batches(self) -> int:
        """Micro-batches of the running step."""

    @property
    def loss(self) -> float | None:
        """The last full-batch loss."""

    @property
    def memory_bytes(self) -> int:
        """Memory in use."""

    @property
    def peak_bytes(self) -> int:
        """Most memory that has been in use."""

    @property
    def limit_bytes(self) -> int:
        """Memory that the run may use."""

    @property
    def samples_per_s(self) -> float:
        """Samples per second since the start."""

    @property
    def remaining_s(self) -> float | None:
        """Estimated seconds left."""


class Line(Protocol):
    """A place where one line of text can be replaced by another."""

    def show(self, text: str) -> None:
        """Put `text` in the place of what was shown before."""

    def close(self, text: str) -> None:
        """Show `text` for good."""


class NotebookLine:
    """An output of the cell that is updated in place."""

    def __init__(self) -> None:
        from IPython.display import display

        self._handle: Any = display({"text/plain": "accum_magic: starting"}, raw=True, display_id=True)

    def show(self, text: str) -> None:
        """Update the output."""
        self._handle.update({"text/plain": text}, raw=True)

    close = show


class TerminalLine:
    """The current line of a terminal, on the error stream, beside what the cell prints."""

    def __init__(self) -> None:
        self._shown = 0

    def show(self, text: str) -> None:
        """Write over the line."""
        columns = _columns()
        text = text.splitlines()[0][:columns]
        sys.stderr.write("\r" + text.ljust(min(self._shown, columns)))
        sys.stderr.flush()
        self._shown = len(text)

    def close(self, text: str) -> None:
        """Clear the line and print the closing text."""
        sys.stderr.write("\r" + " " * min(self._shown, _columns()) + "\r" + text + "\n")
        sys.stderr.flush()


def _columns() -> int:
    """Return how many characters fit in a row of the terminal; from a second row a carriage return leads nowhere."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # no size, or no file: a stream that some front end has put there
        columns = 0
    return columns - 1 if columns > 1 else sys.maxsize


class Quiet:
    """Nowhere: output goes to a file or a pipe. Only what the user has to hear is said, at the end."""

    def show(self, text: str) -> None:
        """Show nothing."""

    def close(self, text: str) -> None:
        """Say that a result is approximate."""
        if "approximate" in text:
            sys.stderr.write(text + "\n")


def line_for(shell: object) -> Line:
    """Choose where the line goes: a notebook's output, a terminal, or nowhere."""
    if hasattr(shell, "kernel"):
        return NotebookLine()
    return TerminalLine() if sys.stderr is not None and sys.stderr.isatty() else Quiet()


class TextView:
    """Shows the counters of a run from a thread of its own, so that training never waits for it."""

    def __init__(self, line: Line, counters: Callable[[], Counters]) -> None:
        self._line, self._counters = line, counters
        self._last = ""
        self._publisher = Publisher(self._publish, REFRESH_S, _gone)

    def start(self) -> None:
        """Begin to show."""
        self._publisher.start()

    def close(self, closing: Closing) -> None:
        """Stop the thread and show the closing text."""
        self._publisher.stop()
        self._line.close(closing.text)

    def _publish(self) -> None:
        text = counters_line(self._counters())
        if text != self._last:
            self._line.show(text)
            self._last = text


def _gone(_: Exception) -> None:
    """The front end is gone; the closing line will say so."""


def counters_line(now: Counters) -> str:
    """Return the running line.

    >>> from types import SimpleNamespace
    >>> counters_line(SimpleNamespace(steps=11, total_steps=80, micro_batch=3, micro_batches=10, loss=0.4123,
    ...     memory_bytes=2**29, peak_bytes=2**30, limit_bytes=6 * 2**30, samples_per_s=1234.5, remaining_s=42.0))
    'step 12/80 · micro-batch 3/10 · loss 0.4123 · 512 MiB of 6,144 (peak 1,024 MiB) · 1,234 samples/s · 0:42 left'
    """
    total = "" if now.total_steps is None else f"/{now.total_steps:,}"
    step = now.steps + 1 if now.total_steps is None else min(now.steps + 1, now.total_steps)
    parts = [f"step {step:,}{total}", f"micro-batch {now.micro_batch}/{now.micro_batches}"]
    if now.loss is not None:
        parts.append(f"loss {now.loss:.4g}")
    used, limit, peak = (f"{count / 2**20:,.0f}" for count in (now.memory_bytes, now.limit_bytes, now.peak_bytes))
    parts.append(f"{used} MiB of {limit} (peak {peak} MiB)")
    parts.append(f"{now.samples_per_s:,.0f} samples/s")
    if now.remaining_s is not None:
        parts.append(f"{clock(now.remaining_s)} left")
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """Return a time as people write it.

    >>> clock(42), clock(3723)
    ('0:42', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

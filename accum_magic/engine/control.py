"""What the user asks of a run while it runs: pause, resume, stop after this update, another N.

Commands come from any thread and are only kept; they act where no gradient is half made: before a step, and at the end
of a loop's body, where the rewritten cell asks `stopped`.
"""

from __future__ import annotations

import dis
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import FrameType
from typing import Literal

from accum_magic.errors import ControlError

CommandKind = Literal["pause", "resume", "stop", "n"]
State = Literal["running", "paused", "stopping"]
MOST_MICRO_BATCHES = 1_000_000
_LOOKED_AT_EVERY_S = 0.02  # while paused


@dataclass(frozen=True, slots=True)
class Command:
    """One wish.

    >>> Command("n", 8)
    Command(kind='n', value=8)
    >>> Command("n", 0)
    Traceback (most recent call last):
    accum_magic.errors.ControlError: N is a whole number from 1 to 1,000,000, found 0.
    """

    kind: CommandKind
    value: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("pause", "resume", "stop", "n"):
            message = f"a run can be told to pause, resume, stop, or n=8 for 8 micro-batches, found `{self.kind}`."
            raise ControlError(message)
        if self.kind == "n" and not (type(self.value) is int and 1 <= self.value <= MOST_MICRO_BATCHES):
            message = f"N is a whole number from 1 to {MOST_MICRO_BATCHES:,}, found {self.value}."
            raise ControlError(message)


class Control:
    """The commands of one run, and what has become of them."""

    def __init__(self) -> None:
        self.n: int | None = None
        """In place of the N of the cell."""
        self.is_paused = False
        self.is_stopping = False
        self.locked: str | None = None
        """Why N stays as it is."""
        self.listen: Callable[[bool], object] | None = None
        """Takes in messages that wait for the thread that trains; it is told whether that stands between updates."""
        self.has_stopped = False
        self._asked: deque[Command] = deque()
        self._to_end: dict[FrameType, set[int]] = {}  # loops that a stop has still to end, by their first lines

    @property
    def state(self) -> State:
        """What the run is doing."""
        return "stopping" if self.is_stopping else "paused" if self.is_paused else "running"

    def ask(self, command: Command) -> None:
        """Keep a command until the run comes to a place where it can act; from any thread.

        Raises:
            ControlError: N cannot change in this run.

        """
        if command.kind == "n" and self.locked:
            raise ControlError(self.locked)
        self._asked.append(command)

    def hear(self) -> None:
        """Take in messages within a step; what they ask acts later."""
        if self.listen is not None:
            self.listen(False)  # noqa: FBT003 - the one thing that it is told

    def boundary(self) -> None:
        """Let commands act; while the run is paused, wait."""
        self._take()
        while self.is_paused:
            time.sleep(_LOOKED_AT_EVERY_S)
            self._take()

    def stopped(self, caller: FrameType) -> bool:
        """Tell whether the loop that asks has to end now.

        A stop ends the loops that run when the first of them asks, in all functions on the way to there. A loop that
        comes behind them, or in another call, is the code behind the loops, and runs.
        """
        self.boundary()
        if not self.is_stopping:
            return False
        if not self._to_end:
            self.has_stopped = True
            self._to_end = {frame: lines for frame in _stack(caller) if (lines := _running_loops(frame))}
        lines = self._to_end.get(caller, set())
        if caller.f_lineno not in lines:
            return False
        lines.remove(caller.f_lineno)
        if not lines:
            del self._to_end[caller]
        self.is_stopping = bool(self._to_end)
        return True

    def forget(self) -> None:
        """Let go of the user's functions."""
        self._to_end.clear()

    def _take(self) -> None:
        if self.listen is not None:
            self.listen(True)  # noqa: FBT003 - the one thing that it is told
        while self._asked:
            command = self._asked.popleft()
            match command.kind:
                case "pause":
                    self.is_paused = not self.is_stopping
                case "resume":
                    self.is_paused = False
                case "stop":
                    self.is_stopping, self.is_paused = True, False
                    self._to_end.clear()
                case "n":
                    self.n = command.value


def _running_loops(frame: FrameType) -> set[int]:
    """Return the first lines of the loops that a function is in just now, as far as they can be stopped.

    In `accum_magic.stopped()` of a rewritten loop, the name `accum_magic` stands at the lines of the whole loop. Under
    `-X no_debug_ranges` Python forgets the last one: then loops that have ended are returned too, and ask no more.
    """
    if "stopped" not in frame.f_code.co_names:
        return set()
    now, found = frame.f_lineno, set()
    for name, attribute in pairwise(dis.get_instructions(frame.f_code)):
        lines = name.positions
        is_check = attribute.argval == "stopped" and str(name.argval).startswith("accum_magic")
        if is_check and lines is not None and lines.lineno is not None:
            last = now if lines.col_offset is None else lines.end_lineno
            if last is not None and lines.lineno <= now <= last:
                found.add(lines.lineno)
    return found


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back

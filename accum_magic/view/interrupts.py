"""Interrupts that wait: a message taken from a socket has to go somewhere before `KeyboardInterrupt` is raised."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """The interrupts of the main thread while they wait."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        self._came: list[FrameType | None] = []

    def _note(self, _: int, frame: FrameType | None) -> None:
        self._came.append(frame)

    def hold(self) -> None:
        """Let interrupts wait from now on."""
        if callable(self._handler):  # else they are ignored, or end the process
            signal.signal(signal.SIGINT, self._note)

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Let code of the user's be interrupted as ever; an interrupt that has come already waits on."""
        if callable(self._handler):
            signal.signal(signal.SIGINT, self._handler)
        try:
            yield
        finally:
            self.hold()

    def release(self) -> None:
        """Send on an interrupt that has come."""
        if callable(self._handler):
            signal.signal(signal.SIGINT, self._handler)
            if self._came:
                self._handler(signal.SIGINT, self._came.pop())


@contextmanager
def interrupts_wait() -> Iterator[Interrupts]:
    """Let interrupts wait until the end of a block; on the main thread only."""
    interrupts = Interrupts(signal.getsignal(signal.SIGINT))
    interrupts.hold()
    try:
        yield interrupts
    finally:
        interrupts.release()

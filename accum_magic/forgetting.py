"""What a notebook keeps of an out-of-memory error: its last traceback, and with that the tensors of half a step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Forgetting:
    """Lets go of the tensors in the frames of out-of-memory errors; other errors keep theirs, for `%debug`."""

    is_due = False  # a cell has run out of memory, and its error is about to be shown

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Notice an out-of-memory error on its way to the shell; let go of what the last one of all holds."""
        __tracebackhide__ = True
        _make_room()
        try:
            yield
        except BaseException as error:
            from accum_magic.engine.oom import is_about_memory

            self.is_due = is_about_memory(error)
            raise

    def let_go(self, result: Any) -> None:
        """Take the tensors from the error of an `ExecutionResult`, once it is shown (IPython calls this).

        The shell keeps the last traceback, and that the locals of all functions on the way: they would fill the memory
        that the next cell needs. Only now, for without locals the traceback would show frames of ours, and no
        arguments.
        """
        if self.is_due:
            from accum_magic.engine.oom import forget

            self.is_due = False
            forget(result.error_in_exec)


def _make_room() -> None:
    """Let go of the tensors in the frames of an out-of-memory error that was shown last.

    A plain cell has most likely run out of memory, and the magic was put above it because of that: the shell keeps that
    traceback, with it the activations of half a step, and there would be hardly any room to begin with.
    """
    last = getattr(sys, "last_value", None)
    if last is not None:
        from accum_magic.engine.oom import forget, free_memory, is_about_memory

        if is_about_memory(last):
            forget(last)
            free_memory()

"""What is left of a panel when its run has ended: a result that needs no kernel, and, where a page listens, a check."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from accum_magic.view.closing import Closing
from accum_magic.view.history import History
from accum_magic.view.messages import Hello, Wish, read
from accum_magic.view.result import result_bundle

_MOST_OPEN = 5

Line = tuple[int | None, str, str]
"""A line of the user's: its number, when it runs, its text; no number for a title."""
Check = Callable[[Callable[[str], object]], object]
"""Runs the exactness check when the kernel is free, and hands on what it has found, as text."""


@dataclass(slots=True)
class Ended:
    """The end of a run, as its page and its notebook have it."""

    run: str
    widget: Any
    handle: Any
    """Of the display that the result replaces; None inside of an `Output` widget, where none can be replaced."""
    state: dict[str, Any]
    history: History
    lines: Sequence[Line]
    closing: Closing
    check: Check | None
    is_shown: bool
    """Whether a page has said hello."""
    checked: str | None = None
    is_checking: bool = False

    def show(self, *, stays_open: bool) -> None:
        """Leave the result in the notebook; the widget is closed, or goes on to answer its pages."""
        try:
            if stays_open:
                self.widget.on_msg(self.heard)
                _OPEN.append(self)
                self._send("ended", state=self.state, check=self.check is not None)
        finally:  # whatever has become of the page, the notebook keeps the result
            self._leave()
        while len(_OPEN) > _MOST_OPEN:
            _OPEN.popleft().widget.discard(is_shown=True)
        if not stays_open:
            self.widget.discard(is_shown=self.is_shown)

    def heard(self, _widget: object, content: object, _buffers: object) -> None:
        """Answer a page that has been loaded again, or that asks for the check."""
        message = read(content, self.run)
        if isinstance(message, Hello):
            told = {"state": self.state, "lines": self.lines, "check": self.check is not None}
            self._send("welcome", reach="immediate", locked=None, **told)
            if self.checked is not None:
                self._send("checked", text=self.checked)
        elif message == Wish("check") and self.check is not None and not self.is_checking:
            self.is_checking = True
            self.check(self._found)

    def _found(self, text: str) -> None:
        self.checked, self.is_checking = text, False
        self._send("checked", text=text)
        self._leave()

    def _leave(self) -> None:
        if self.handle is None:
            return
        text = self.closing.text if self.checked is None else f"{self.closing.text}\n{self.checked}"
        bundle = {"text/plain": text}
        if self.closing.is_told:
            memory, losses = self.history.memory, self.history.losses
            bundle = result_bundle({**self.state, "checked": self.checked}, memory, losses, self.lines, text)
        self.handle.update(bundle, raw=True)

    def _send(self, kind: str, **content: object) -> None:
        self.widget.send({"kind": kind, "run": self.run, **content}, [self.history.packed()])


_OPEN: deque[Ended] = deque()

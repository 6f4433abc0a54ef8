"""The live panel: a widget that a thread of its own feeds, and whose controls only ask.

The training thread writes plain attributes, the publisher reads them and sends; a message from the page is checked and
handed on, on whichever thread it comes.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from IPython.display import display

from accum_magic.errors import ControlError
from accum_magic.view.closing import Closing
from accum_magic.view.ended import Check, Ended, Line
from accum_magic.view.history import History
from accum_magic.view.messages import Hello, Wish, read
from accum_magic.view.publisher import Publisher
from accum_magic.view.state import Snapshot, state_of
from accum_magic.view.subshells import is_main_thread, reply_shims
from accum_magic.view.text import counters_line
from accum_magic.view.widget import PanelWidget, is_captured, mime_bundle

SAMPLED_EVERY_S = 0.05  # the memory, which falls and rises within a step
PUBLISHED_EVERY_S = 0.2  # no measurable loss of training speed; every 50 ms it is 2 to 3 %
_SLOWLY_S = 1.0  # where sending takes long, and where nobody has said hello
_SLOW_SEND_S = 0.05
HELLO_WITHIN_S = 3.0
_MOST_PENDING = 100  # answers to the page that wait for the publisher
_MOST_PAGES = 100
_PASSING = dict.fromkeys(("elapsed_s", "remaining_s", "samples_per_s"))  # changes always, and tells nothing alone


@dataclass(frozen=True, slots=True)
class Source:
    """The run that a panel shows and asks."""

    snapshot: Callable[[], Snapshot]
    used_bytes: Callable[[], int]
    """Memory in use; asked twenty times a second."""
    ask: Callable[[str, int | None], object]
    """Takes a command; raises ControlError where the run cannot do it."""
    how: str
    """How the cell asks for its batch to be cut: `10`, `auto`, `at most 100 samples`."""
    locked: str | None
    """Why N cannot change."""
    lines: Sequence[Line]
    check: Check | None = None
    """The exactness check, for a cell that can be checked."""


class Panel:
    """Shows one run, above the cell's own output, and leaves a result there that needs no kernel."""

    def __init__(self, source: Source, failed: Callable[[Exception], object]) -> None:
        self._source = source
        self._run = secrets.token_hex(8)
        self._history = History()
        self._widget = PanelWidget()
        reply_shims(self._widget.comm)
        self._pages: set[str] = set()
        self._answers: deque[dict[str, Any]] = deque(maxlen=_MOST_PENDING)
        self._reach = "update"
        self._most_bytes = 0  # since the last point of the chart
        self._shown: object = None  # what the page or the text has been told last
        self._next_s, self._hello_until_s = 0.0, time.monotonic() + HELLO_WITHIN_S
        self._is_text = False
        self._publisher = Publisher(self._tick, SAMPLED_EVERY_S, failed)

    def start(self) -> None:
        """Display the panel."""
        self._widget.on_msg(self._heard)
        self._is_captured = is_captured()
        data, metadata = self._live()
        self._handle: Any = display(data, metadata=metadata, raw=True, display_id=True)
        self._publisher.start()

    def close(self, closing: Closing) -> None:
        """Leave the result in the notebook."""
        self._publisher.stop()
        state = {**self._look(), "state": "ended", "outcome": closing.outcome, "error": closing.error}
        self._widget.on_msg(self._heard, remove=True)
        handle, check = None if self._is_captured else self._handle, self._source.check
        is_shown, lines = bool(self._pages), self._source.lines
        ended = Ended(self._run, self._widget, handle, state, self._history, lines, closing, check, is_shown)
        # what is displayed in an `Output` widget, or in a page that was loaded again, cannot be replaced
        stays = self._is_captured or len(self._pages) > 1
        ended.show(stays_open=stays or (is_shown and closing.is_told and check is not None))

    def _live(self) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = mime_bundle(self._widget)
        text = "accum_magic: starting"
        return {**data, "text/plain": text, "text/html": f"<p>{text}</p>"}, metadata

    # ---------------------------------------------------------------- what the page says, on any thread

    def _heard(self, _widget: object, content: object, _buffers: object) -> None:
        message = read(content, self._run)
        if isinstance(message, Hello):
            if len(self._pages) < _MOST_PAGES:
                self._pages.add(message.page)
            self._reach = "update" if is_main_thread() else "immediate"
            self._answers.append({"kind": "welcome"})
        elif isinstance(message, Wish):
            try:
                self._source.ask(message.command, message.value)
            except ControlError as error:
                self._answers.append({"kind": "refused", "text": str(error)})

    # ---------------------------------------------------------------- what the page is told, by the publisher

    def _tick(self) -> None:
        self._most_bytes = max(self._most_bytes, self._source.used_bytes())
        while self._answers:
            answer = self._answers.popleft()
            if answer["kind"] == "welcome":
                self._welcome()
            else:
                self._send(**answer)
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + self._publish(is_awaited=now_s < self._hello_until_s)

    def _look(self) -> dict[str, Any]:
        """Look at the run, and remember what the curves are drawn from."""
        now, history = self._source.snapshot(), self._history
        state = state_of(now, self._source.how)
        history.remember_memory(state["step"], max(self._most_bytes, now.memory_bytes))
        self._most_bytes = 0
        if now.loss is not None:
            history.remember_loss(now.steps, now.loss)
        return state

    def _publish(self, *, is_awaited: bool) -> float:
        """Tell the page, or where there is none the reader of a text, and return in how many seconds to do so again."""
        state = self._look()
        if not self._pages:
            if not is_awaited and not self._is_captured:
                self._publish_text(counters_line(self._source.snapshot()))
            return PUBLISHED_EVERY_S if is_awaited else _SLOWLY_S
        told = {**state, **_PASSING}
        if told == self._shown:
            return PUBLISHED_EVERY_S
        self._shown, began_s = told, time.monotonic()
        self._send("state", state=state)
        return PUBLISHED_EVERY_S if time.monotonic() - began_s < _SLOW_SEND_S else _SLOWLY_S

    def _publish_text(self, line: str) -> None:
        self._is_text = True
        if line != self._shown:
            self._shown = line
            self._handle.update({"text/plain": line}, raw=True)

    def _welcome(self) -> None:
        if self._is_text:  # the page has come late, to find a text in the place of the panel
            self._is_text = False
            data, metadata = self._live()
            self._handle.update(data, metadata=metadata, raw=True)
        source = self._source
        self._send("welcome", state=self._look(), reach=self._reach, locked=source.locked, lines=source.lines)

    def _send(self, kind: str, **content: object) -> None:
        self._widget.send({"kind": kind, "run": self._run, **content}, [self._history.packed()])

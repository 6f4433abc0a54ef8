"""A thread of its own for what a view does while a cell runs, so that training never waits for a front end."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable


class Publisher:
    """Calls `tick` every so many seconds, until it is stopped or `tick` raises."""

    def __init__(self, tick: Callable[[], object], every_s: float, failed: Callable[[Exception], object]) -> None:
        self._tick, self._every_s, self._failed = tick, every_s, failed
        self._stop = threading.Event()
        # a plain thread has no parent message, and ipykernel 7.0.1 then fails to publish
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), daemon=True, name="accum_magic view")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; nothing is called any more behind this."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._tick()
            except Exception as error:  # noqa: BLE001 - whatever a front end does wrong, training goes on
                self._failed(error)
                return

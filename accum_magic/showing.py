"""Chooses what shows a run: the live panel, a line of text, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from accum_magic.cell.explain import marked_lines
from accum_magic.view.closing import Closing
from accum_magic.view.text import TextView, line_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from accum_magic.cell.rewrite import Rewrite
    from accum_magic.engine.run import Run
    from accum_magic.view.panel import Panel

PANELS = ("live", "text", "off")
_LOCKED = "N stays as it is under --window: it is the number of loader batches of an update."


class View(Protocol):
    """What shows a run."""

    def start(self) -> None:
        """Begin to show."""

    def close(self, closing: Closing) -> None:
        """Show how the run has ended."""


def view_of(arguments: Any, shell: object, run: Run, rewritten: Rewrite, checked: Callable[[], str]) -> View | None:
    """Return what `--panel` asks for; where there are no widgets a line of text takes the panel's place.

    `checked` runs the exactness check and says what it has found.
    """
    run.control.locked = _LOCKED if arguments.window else None
    if arguments.panel == "off":
        return None
    if arguments.panel == "live" and hasattr(shell, "kernel"):
        try:
            return _panel(arguments, shell, run, rewritten, checked)
        except Exception as error:  # noqa: BLE001 - whatever a stack of Jupyter packages lacks
            run.note(f"the panel cannot show, a line of text stands for it: {error!r}")
    return TextView(line_for(shell), run.snapshot)


def _panel(arguments: Any, shell: Any, run: Run, rewritten: Rewrite, checked: Callable[[], str]) -> Panel:
    from accum_magic.engine.control import Command
    from accum_magic.engine.events import RunEnded
    from accum_magic.view.panel import Panel, Source
    from accum_magic.view.pump import pump_for

    pump = pump_for(shell)
    if pump is not None:
        run.control.listen = pump.poll

    def used_bytes() -> int:
        return run.meter.now_bytes()  # of the device that the first step finds

    def ask(command: Any, value: int | None) -> None:
        run.control.ask(Command(command, value))

    def failed(error: Exception) -> None:
        run.note(f"the view failed: {error!r}")

    def told(event: object) -> None:
        if isinstance(event, RunEnded) and pump is not None and pump.why is not None:
            run.note(f"from some point on the page was heard only when the cell had ended: {pump.why}")

    run.subscribers += (told,)

    def check(tell: Callable[[str], object]) -> None:
        shell.kernel.io_loop.add_callback(lambda: tell(checked()))  # on the main thread, between two cells

    how = arguments.n or f"at most {arguments.size} samples"
    lines = marked_lines(rewritten)
    source = Source(run.snapshot, used_bytes, ask, str(how), run.control.locked, lines, check)
    return Panel(source, failed)

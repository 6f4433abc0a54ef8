"""Commands to the running cell, from Python: another thread, a subshell, a callback of the user's own loop."""

from __future__ import annotations

from accum_magic.engine.control import Command
from accum_magic.engine.run import running
from accum_magic.errors import ControlError

_DOES = {"pause": "pause", "resume": "resume", "stop": "stop", "n": "split anew"}


def ask(command: Command) -> None:
    """Tell the running cell to pause, resume, stop or take another N, from any thread.

    Raises:
        ControlError: No cell is running, or N cannot change.

    """
    run = running()
    if run is None:
        message = f"no cell runs in micro-batches now, so there is nothing to {_DOES[command.kind]}."
        raise ControlError(message)
    run.control.ask(command)


def pause() -> None:
    """Let the running cell wait behind its update, until `resume`."""
    ask(Command("pause"))


def resume() -> None:
    """Let a paused cell go on."""
    ask(Command("resume"))


def stop() -> None:
    """End the loops of the running cell after this update; what stands behind them runs."""
    ask(Command("stop"))


def set_n(n: int) -> None:
    """Give the running cell's next steps N micro-batches each."""
    ask(Command("n", n))

"""ipykernel's subshells, threads that take in messages while a cell runs, and what a comm needs there."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakSet

_ours: WeakSet[Any] = WeakSet()


def is_main_thread() -> bool:
    """Whether this is the thread that cells run on: a message handled on another one has come through a subshell."""
    return threading.current_thread() is threading.main_thread()


def reply_shims(comm: Any) -> None:
    """Let the page's messages on a comm be heard at once, and without harm to the cell that runs.

    ipykernel 7.4.0 hands them to the shell that published on the comm last, which is the busy one, and not to the
    subshell that the page has sent them to. And each one that is handled fires `pre_execute` and `post_execute`, on the
    subshell's thread: matplotlib then shows and closes the figure that the running cell draws.
    """
    _ours.add(comm)
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = _as_sent
    if hasattr(comm, "handle_msg") and hasattr(comm, "_msg_callback"):
        comm.handle_msg = lambda message: call_back(comm, message)


def is_ours(comm: object) -> bool:
    """Whether a comm has the shims: its handler only keeps what the page asks, and may run within a step."""
    return comm in _ours


def _as_sent(_: object, default: str | None = None) -> str | None:
    return default


def call_back(comm: Any, message: dict[str, Any]) -> None:
    """Hand a message to the one who listens on a comm, without the events of a cell."""
    if comm._msg_callback:
        comm._msg_callback(message)

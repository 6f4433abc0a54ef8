"""What comes from the page, checked before anything is done with it: type, range, and which run it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_LONGEST = 100  # characters of what names a page or a run
_COMMANDS = ("pause", "resume", "stop", "check")


@dataclass(frozen=True, slots=True)
class Hello:
    """A page shows the panel, for the first time or anew."""

    page: str


@dataclass(frozen=True, slots=True)
class Wish:
    """A control has been used."""

    command: str
    value: int | None = None


def read(content: object, run: str) -> Hello | Wish | None:
    """Return what a message says to a run, None where it says nothing that can be understood.

    >>> read({"kind": "command", "run": "7", "command": "n", "value": 8}, "7")
    Wish(command='n', value=8)
    >>> read({"kind": "command", "run": "7", "command": "stop"}, "8")
    >>> read({"kind": "command", "run": "7", "command": "n", "value": True}, "7")
    """
    if not isinstance(content, Mapping):
        return None
    kind = content.get("kind")
    if kind == "hello":
        page = content.get("page")
        is_name = isinstance(page, str) and 0 < len(page) <= _LONGEST
        return Hello(str(page)) if is_name and set(content) == {"kind", "page"} else None
    if kind != "command" or content.get("run") != run:
        return None
    command = content.get("command")
    if command == "n":
        value = content.get("value")
        return Wish("n", value) if set(content) == {"kind", "run", "command", "value"} and type(value) is int else None
    is_known = isinstance(command, str) and command in _COMMANDS and set(content) == {"kind", "run", "command"}
    return Wish(str(command)) if is_known else None

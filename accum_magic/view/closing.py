"""How a run has ended, for every view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Closing:
    """What a view shows for good."""

    text: str
    outcome: Literal["finished", "stopped", "failed"]
    error: str | None = None  # the name of the error that has ended the cell
    is_told: bool = True  # steps have run: there is more to show than the text

"""What the panel's curves are drawn from: a bounded number of points, however long the run."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterable, Sequence

Point = tuple[float, float]
MEMORY_POINTS = 300  # a minute, at five a second
LOSS_POINTS = 300
_MOST = 3e38  # what float32 holds


class History:
    """The memory of the last minute, and the loss of the whole run."""

    def __init__(self) -> None:
        self.memory: deque[Point] = deque(maxlen=MEMORY_POINTS)
        self.losses: list[Point] = []
        self._every = 1  # steps between two points of the loss

    def remember_memory(self, step: int, used_bytes: int) -> None:
        """Take how much memory was in use, in which step."""
        self.memory.append((step, used_bytes / 2**20))

    def remember_loss(self, step: int, loss: float) -> None:
        """Take the loss of a step; a curve that grows too long keeps every second point."""
        if not math.isfinite(loss) or (self.losses and step < self.losses[-1][0] + self._every):
            return
        self.losses.append((step, loss))
        if len(self.losses) > LOSS_POINTS:
            self.losses, self._every = self.losses[::2], self._every * 2

    def packed(self) -> bytes:
        """Return both curves as little-endian float32: their lengths, then the pairs of each.

        >>> history = History()
        >>> history.remember_memory(1, 2**20)
        >>> struct.unpack("<4f", history.packed())
        (1.0, 0.0, 1.0, 1.0)
        """
        return _packed([len(self.memory), len(self.losses), *_flat(self.memory), *_flat(self.losses)])


def _flat(points: Iterable[Point]) -> Iterable[float]:
    return (number for point in points for number in point)


def _packed(numbers: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *(max(-_MOST, min(_MOST, n)) for n in numbers))

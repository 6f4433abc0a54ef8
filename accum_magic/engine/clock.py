"""How long each micro-batch of a step takes, without waiting for the device."""

from __future__ import annotations

import time

import torch


class Clock:
    """Laps on a CPU, where a call returns when its work is done."""

    def __init__(self) -> None:
        self._laps = [time.perf_counter()]

    def lap(self) -> None:
        """End a lap, and begin the next."""
        self._laps.append(time.perf_counter())

    def seconds(self) -> tuple[float, ...] | None:
        """Return the laps, in seconds; None while the device still works on them."""
        return tuple(end - start for start, end in zip(self._laps, self._laps[1:], strict=False))


class DeviceClock(Clock):
    """Laps on an accelerator: events in its queue, which are read when all of them have come by."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.Event] = []
        self.lap()

    def lap(self) -> None:
        """End a lap, and begin the next."""
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        self._events.append(event)

    def seconds(self) -> tuple[float, ...] | None:
        """Return the laps, in seconds; None while the device still works on them."""
        if not self._events[-1].query():
            return None
        pairs = zip(self._events, self._events[1:], strict=False)
        return tuple(start.elapsed_time(end) / 1e3 for start, end in pairs)


def clock_of(device: torch.device) -> Clock:
    """Return the clock of a device."""
    return Clock() if device.type == "cpu" else DeviceClock(device)

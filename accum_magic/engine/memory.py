"""Meters: memory in use and its peak, in bytes, by kind of device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import torch

_STATUS = Path("/proc/self/status")
_STATM = Path("/proc/self/statm")


class Meter(Protocol):
    """One kind of device's memory."""

    def now_bytes(self) -> int:
        """Return the bytes in use."""

    def peak_bytes(self) -> int:
        """Return the most bytes that have been in use since the meter was made, as far as it could see."""


class ResidentMemory:
    """The process's resident memory, for work on a CPU.

    The peak is the operating system's high-water mark where the run has raised it, and otherwise the
    largest value that has been read.
    """

    def __init__(self) -> None:
        self._mark_at_start = _high_water_mark()
        self._largest = self.now_bytes()

    def now_bytes(self) -> int:
        """Return the resident bytes."""
        now = _resident_bytes()
        self._largest = max(now, getattr(self, "_largest", 0))
        return now

    def peak_bytes(self) -> int:
        """Return the peak."""
        self.now_bytes()
        mark = _high_water_mark()
        return mark if mark > self._mark_at_start else self._largest


class AllocatedMemory:
    """An accelerator's memory as its allocator counts it (`torch.accelerator`)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now_bytes(self) -> int:
        """Return the allocated bytes."""
        return int(torch.accelerator.memory_allocated(self._device))

    def peak_bytes(self) -> int:
        """Return the allocator's peak; it counts since the process or the user last reset it."""
        return int(torch.accelerator.max_memory_allocated(self._device))


def meter_for(device: torch.device) -> Meter:
    """Return the meter of a device."""
    has_statistics = hasattr(torch.accelerator, "memory_allocated")
    if device.type in {"cuda", "xpu"} and has_statistics:
        return AllocatedMemory(device)
    return ResidentMemory()


def _resident_bytes() -> int:
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import psutil  # where there is no /proc: on Linux it would cost a megabyte of what is measured

    return int(psutil.Process().memory_info().rss)


def _high_water_mark() -> int:
    """`VmHWM` in bytes; 0 where the system does not tell."""
    if not _STATUS.exists():
        return 0
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0

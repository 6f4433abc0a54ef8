"""Meters: memory in use, its peak and its limit, in bytes, by kind of device."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from accum_magic.engine.host_limits import PROC, host_limit_bytes, kibibytes

_COLLECTED_EVERY_S = 1.0
_MARGIN_BYTES = 2**20  # by which two looks at one high-water mark may differ: the kernel counts in batches


class Meter(Protocol):
    """One kind of device's memory. No look at it waits for the device."""

    @property
    def margin_share(self) -> float:
        """The share of the limit that a budget leaves free by default."""

    def now_bytes(self) -> int:
        """Return the bytes in use."""

    def peak_bytes(self) -> int:
        """Return the most bytes that have been in use since the meter was made, as far as it could see."""

    def limit_bytes(self) -> int:
        """Return the most that `now_bytes` can become, as things stand now."""

    def begin_step(self) -> None:
        """Let `step_peak_bytes` count from here on."""

    def step_peak_bytes(self) -> int:
        """Return the most bytes that have been in use since `begin_step`, as far as the meter could see."""

    def release(self, *, collects: bool = True) -> None:
        """Give back what is free but held: garbage in cycles, the allocator's cache; the second alone is quicker."""


class _Garbage:
    collected_s = -math.inf


def collect_garbage() -> None:
    """Collect garbage, once a second at most: it takes some tens of milliseconds, in a large notebook hundreds."""
    now_s = time.monotonic()
    if now_s - _Garbage.collected_s > _COLLECTED_EVERY_S:
        gc.collect()
        _Garbage.collected_s = time.monotonic()


class ResidentMemory:
    """The process's resident memory, for work on a CPU.

    A peak is the operating system's high-water mark where it has been raised since, and otherwise the
    largest value that has been read. The mark is never reset, for others read it too.
    """

    # Past the limit the kernel is killed, without an error; and it moves as other processes take and give.
    margin_share = 0.1

    def __init__(self) -> None:
        self._look = _resident_reader()
        self._mark = _quick_mark()
        self._mark_at_start = _high_water_mark()
        self._largest = self._largest_in_step = 0
        self.begin_step()

    def now_bytes(self) -> int:
        """Return the resident bytes."""
        now = self._look()
        if now > self._largest_in_step:
            self._largest_in_step = now
            self._largest = max(self._largest, now)
        return now

    def peak_bytes(self) -> int:
        """Return the peak."""
        self.now_bytes()
        mark = _high_water_mark()
        return max(mark, self._largest) if mark > self._mark_at_start else self._largest

    def limit_bytes(self) -> int:
        """Return the least of what the machine, the control groups and the resource limits leave this process."""
        return host_limit_bytes(self.now_bytes())

    def begin_step(self) -> None:
        """Let `step_peak_bytes` count from here on."""
        self._mark_of_step = self._mark()
        self._largest_in_step = 0
        self.now_bytes()

    def step_peak_bytes(self) -> int:
        """Return the peak since `begin_step`."""
        self.now_bytes()
        is_raised = self._mark() > self._mark_of_step
        return max(self._largest_in_step, _high_water_mark()) if is_raised else self._largest_in_step

    def release(self, *, collects: bool = True) -> None:
        """Collect garbage, and let glibc's allocator hand its free pages back."""
        if collects:
            collect_garbage()
        if sys.platform == "linux":
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
            if trim is not None:
                trim(0)


def meter_for(device: torch.device) -> Meter:
    """Return the meter of a device."""
    if device.type in {"cuda", "xpu", "mps"}:
        from accum_magic.engine.accelerator_memory import AllocatedMemory, MpsMemory

        return MpsMemory() if device.type == "mps" else AllocatedMemory(device)
    return ResidentMemory()


def _resident_reader(proc: Path = PROC) -> Callable[[], int]:
    """Return what reads the resident bytes: 1.3 µs from a file that stays open, in place of 16 to open it each time."""
    statm = proc / "self/statm"
    if not statm.exists():
        import psutil  # where there is no /proc: on Linux it would cost a megabyte of what is measured

        process = psutil.Process()
        return lambda: int(process.memory_info().rss)
    descriptor = os.open(statm, os.O_RDONLY)
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(os.pread(descriptor, 128, 0).split()[1]) * page

    # a view may still look while the interpreter exits, and then the file is closed anyway
    weakref.finalize(resident, os.close, descriptor).atexit = False
    return resident


def _high_water_mark(proc: Path = PROC) -> int:
    """Return the most that has ever been resident, in bytes."""
    mark = kibibytes(proc / "self/status").get("VmHWM")
    if mark is not None:
        return mark
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    return _most_used()


def _most_used() -> int:
    """Return `ru_maxrss` in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _quick_mark() -> Callable[[], int]:
    """Return what tells whether the high-water mark has been raised.

    `ru_maxrss` is the mark for 3 µs in place of 50, but a process inherits it: where its parent was larger (a kernel's
    server, a test's runner), it does not move.
    """
    if sys.platform == "win32" or abs(_most_used() - _high_water_mark()) > _MARGIN_BYTES:
        return _high_water_mark
    return _most_used

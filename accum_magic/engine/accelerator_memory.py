"""Meters of accelerators, which count what PyTorch's allocator has handed out."""

from __future__ import annotations

import torch

from accum_magic.engine.memory import collect_garbage


class AllocatedMemory:
    """The memory of a CUDA, ROCm or XPU device as its allocator counts it (`torch.accelerator`).

    Other processes on the device, and what CUDA itself needs, are in `limit_bytes` only.
    """

    # Past the limit there is an error that costs one micro-batch; the margin is for blocks that fit nowhere.
    margin_share = 0.05

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._earlier = self._allocators_peak()  # from before the run, until this meter resets it
        self._largest = self._largest_in_step = 0
        self.now_bytes()

    def now_bytes(self) -> int:
        """Return the allocated bytes."""
        return self._take(int(torch.accelerator.memory_allocated(self._device)))

    def peak_bytes(self) -> int:
        """Return the peak of the run, whoever has reset the allocator's since."""
        self.step_peak_bytes()
        return self._largest

    def limit_bytes(self) -> int:
        """Return what is free on the device and what the allocator holds, within the process's fraction of it."""
        free, total = torch.accelerator.get_memory_info(self._device)
        most = free + int(torch.accelerator.memory_reserved(self._device))
        kind = torch.xpu if self._device.type == "xpu" else torch.cuda
        return min(most, int(kind.get_per_process_memory_fraction(self._device) * total))

    def begin_step(self) -> None:
        """Reset the allocator's peak; the run's is kept here."""
        self.step_peak_bytes()
        torch.accelerator.reset_peak_memory_stats(self._device)
        self._earlier = self._largest_in_step = 0
        self.now_bytes()

    def step_peak_bytes(self) -> int:
        """Return the peak since `begin_step`."""
        mark = self._allocators_peak()
        if mark > self._earlier:
            self._take(mark)
        self.now_bytes()
        return self._largest_in_step

    def release(self, *, collects: bool = True) -> None:
        """Collect garbage, and hand the allocator's free blocks back to the device, which waits for it."""
        if collects:
            collect_garbage()
            torch.accelerator.empty_cache()

    def _allocators_peak(self) -> int:
        return int(torch.accelerator.max_memory_allocated(self._device))

    def _take(self, seen: int) -> int:
        self._largest = max(self._largest, seen)
        self._largest_in_step = max(self._largest_in_step, seen)
        return seen


class MpsMemory:
    """The memory of Apple's GPU, which is the machine's own. Its allocator keeps no peak: what was read is known."""

    margin_share = 0.1  # as on a CPU

    def __init__(self) -> None:
        self._largest = self._largest_in_step = 0
        self.now_bytes()

    def now_bytes(self) -> int:
        """Return the allocated bytes."""
        now = int(torch.mps.current_allocated_memory())
        self._largest = max(self._largest, now)
        self._largest_in_step = max(self._largest_in_step, now)
        return now

    def peak_bytes(self) -> int:
        """Return the largest value that has been read."""
        self.now_bytes()
        return self._largest

    def limit_bytes(self) -> int:
        """Return what Metal recommends as the most, or what the machine has where that is less."""
        import psutil

        available = int(psutil.virtual_memory().available) + int(torch.mps.driver_allocated_memory())
        return min(int(torch.mps.recommended_max_memory()), available)

    def begin_step(self) -> None:
        """Let `step_peak_bytes` count from here on."""
        self._largest_in_step = 0
        self.now_bytes()

    def step_peak_bytes(self) -> int:
        """Return the largest value that has been read since `begin_step`."""
        self.now_bytes()
        return self._largest_in_step

    def release(self, *, collects: bool = True) -> None:
        """Collect garbage, and hand the allocator's free blocks back, which waits for the device."""
        if collects:
            collect_garbage()
            torch.mps.empty_cache()

"""How the batch of each step is cut: as asked, or under `auto` into the fastest micro-batches that fit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from accum_magic.engine.ceiling import Ceiling
from accum_magic.engine.fastest import Search
from accum_magic.engine.memory import Meter
from accum_magic.engine.pending import gradient_bytes, missing_gradients
from accum_magic.engine.room import Room
from accum_magic.engine.split import cut, flatten, micro_batch_sizes

_REMEMBERED = 32  # plans that outlive their cell: of models and shapes that a notebook trains in turn
_KEPT = 0.8  # of a size that has failed: what is measured tells better than halving
_ALIKE = 1.25  # samples that differ no more in size are timed together
_MORE = 1.25  # times what was free after a failure: what has failed may fit now

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What a plan has to know of the memory at the beginning of a step."""

    meter: Meter
    budget_bytes: int
    """The most that may be in use while micro-batches run."""
    pending_bytes: int
    """What optimizers will hold from their first step on, and do not yet."""
    parameters: Sequence[torch.Tensor]
    """Whose gradients are to come, where they are not there."""


@dataclass(slots=True)
class Asked:
    """N or `--size`, as the user has said it; smaller micro-batches for a while after an out-of-memory error."""

    ceiling: Ceiling = field(default_factory=Ceiling)
    is_bound: bool = False  # the ceiling has made the micro-batches of the last step smaller than what was asked

    def cut(self, samples: int, n: int | None, size: int | None) -> Sizes:
        """Return the sizes of a step's micro-batches."""
        sizes = micro_batch_sizes(samples, n, size)
        most = self.ceiling.under(sizes[0])
        self.is_bound = most < sizes[0]
        return cut(samples, most) if self.is_bound else sizes

    def failed(self, size: int) -> None:
        """Take note that a micro-batch has run out of memory."""
        self.ceiling.failed(size)

    def under(self, samples: int) -> Sizes:
        """Return a loader batch of a window, cut where it does not fit."""
        most = self.ceiling.under(samples)
        self.is_bound = self.is_bound or most < samples
        return cut(samples, most)


@dataclass(slots=True)
class Auto:
    """The plan of one step under `auto`, kept from run to run of its cell."""

    room: Room
    search: Search | None
    """None where the size is not free: the largest that fits is the closest to the plain cell."""
    smallest: int
    ceiling: Ceiling = field(default_factory=Ceiling)
    largest: int = 0
    """Samples of the largest micro-batch that fits, as far as is known, and as a batch has had."""
    is_bound: bool = False
    used: int = 0
    """Samples of the largest micro-batch of the last step."""
    _batch: int = 0  # samples of the largest batch
    _unit: float = 0.0  # of the samples that are timed
    _planned: float = 0.0  # unit of the last plan
    _free: int = 0  # bytes that were free for its micro-batches
    _floor: int = 0  # bytes in use that are no micro-batch's, and of gradients among them
    _floor_gradients: int = 0
    _failed_free: int | None = None  # bytes that were free after the last failure; 0 until that is known

    def plan(self, samples: int, unit: float, memory: Memory) -> Sizes:
        """Return the sizes of the micro-batches of a step; `unit` is how many numbers a sample has."""
        least = min(self.smallest, samples)
        fits = max(least, self._fits(samples, unit, memory))
        self._lift_ceiling()
        self._batch = max(self._batch, samples)
        self.largest = min(self._batch, fits)  # a last batch that is short tells no less
        most = max(least, self.ceiling.under(min(samples, fits)))
        self.is_bound = most < min(samples, fits)
        sizes = self._proposed(samples, unit, most, least)
        self.used = max(sizes)
        return sizes

    def _proposed(self, samples: int, unit: float, most: int, least: int) -> Sizes:
        if self.search is None:
            return cut(samples, most, least)
        self._unit = self._unit or unit
        if self._is_timed(unit):
            return self.search.propose(samples, most)
        known = (self.search.so_far() or least) * self._unit
        return cut(samples, min(max(least, int(known / unit)), most), least)

    def failed(self, size: int) -> None:
        """Take note that a micro-batch has run out of memory, which needed more than there was for it."""
        self.room.observe(size, self._planned, self._free)
        self.ceiling.failed(size, _KEPT)
        self._failed_free = 0

    def _lift_ceiling(self) -> None:
        """Forget what has failed, where far more is free than there was then."""
        if self._failed_free == 0:
            self._failed_free = max(1, self._free)
        elif self._failed_free is not None and self._free > _MORE * self._failed_free:
            self.ceiling, self._failed_free = Ceiling(), None

    def told(self, where: str) -> str:
        """Say what was chosen."""
        if self.search is None and self.used >= self._batch:
            return f"{where}: auto took the whole batch at once, for it fits"
        if self.search is None:
            most = f"{self.used:,} sample{'s' if self.used > 1 else ''}"
            return (
                f"{where}: auto took micro-batches of up to {most}, the most that fit: their size changes an "
                "approximate result"
            )
        if not self.search.best:
            return f"{where}: auto was still measuring when the cell ended"
        best, tried = self.search.best, len(self.search.times)
        took = f"{where}: auto took micro-batches of {best:,} sample{'s' if best > 1 else ''}"
        if tried == 1:
            return f"{took}, the only size that was tried; up to {self.largest:,} fit"
        how = "the fastest of" if self.search.is_settled else "the fastest so far of"
        return f"{took}, {how} {tried} sizes; up to {self.largest:,} fit"

    def _is_timed(self, unit: float) -> bool:
        return self._unit / _ALIKE <= unit <= self._unit * _ALIKE

    def is_measuring(self, unit: float, size: int) -> bool:
        """Whether the micro-batches of a step, of a size at most, are timed, and their memory measured."""
        if self.search is None:
            return size not in self.room.peaks.get(unit, ())  # two sizes make a line
        return unit not in self.room.peaks or not self.search.is_settled

    def _fits(self, samples: int, unit: float, memory: Memory) -> int:
        """Return how many samples fit at once."""
        wanted = self.search.best if self.search is not None and self.search.is_settled else samples
        self._look(memory)
        pending = missing_gradients(memory.parameters) + memory.pending_bytes
        is_tight = self.room.largest(memory.budget_bytes - self._floor - pending, unit) < wanted
        if is_tight:  # what an allocator keeps of earlier micro-batches is free for the next
            memory.meter.release(collects=False)
            self._look(memory)
        self._planned, self._free = unit, max(0, memory.budget_bytes - self._floor - pending)
        return self.room.largest(self._free, unit)

    def _look(self, memory: Memory) -> None:
        self._floor, self._floor_gradients = memory.meter.now_bytes(), gradient_bytes(memory.parameters)

    def observe(self, size: int, unit: float, peak_bytes: int, memory: Memory) -> None:
        """Take the peak of the memory in use while a micro-batch has run."""
        made = gradient_bytes(memory.parameters) - self._floor_gradients
        self.room.observe(size, unit, max(0, peak_bytes - self._floor - made))

    def timed(self, sizes: Sizes, unit: float, seconds: tuple[float, ...]) -> None:
        """Take the times of a step's micro-batches."""
        if self.search is not None and not self.search.is_settled and self._is_timed(unit):
            self.search.record(sizes, seconds)


_PLANS: dict[object, Auto] = {}


def remembered(key: object, made: Callable[[], Auto]) -> Auto:
    """Return the plan of a step that has run before, or a new one; the last ones that were used are kept."""
    plan = _PLANS.pop(key, None) or made()
    _PLANS[key] = plan
    while len(_PLANS) > _REMEMBERED:
        del _PLANS[next(iter(_PLANS))]
    return plan


def unit_of(batch: Mapping[str, Any], divided: Collection[str], samples: int) -> float:
    """Return how many numbers the largest tensor of a batch holds per sample."""
    return max((leaf.numel() for leaf in _tensors(batch, divided)), default=samples) / samples


def resident_bytes(batch: Mapping[str, Any], divided: Collection[str]) -> int:
    """Return the bytes behind a batch, which are there already: a view of a data set keeps all of it."""
    leaves = [leaf for leaf in _tensors(batch, divided) if leaf.layout is torch.strided]
    return sum({s.data_ptr(): s.nbytes() for s in (leaf.untyped_storage() for leaf in leaves)}.values())


def _tensors(batch: Mapping[str, Any], divided: Collection[str]) -> Iterator[torch.Tensor]:
    yield from (leaf for name in divided for leaf in flatten(batch[name])[0] if isinstance(leaf, torch.Tensor))

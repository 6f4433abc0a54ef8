"""The memory budget of a run: what `--memory` says, or what there is, less a margin."""

from __future__ import annotations

import time
from dataclasses import dataclass

from accum_magic.engine.amounts import Amount, amount_from
from accum_magic.engine.memory import Meter
from accum_magic.errors import BudgetError, OptionError

READ_AGAIN_S = 1.0  # a look at the limits takes a millisecond or two
_LEAST_MARGIN_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Budget:
    """How many bytes of a meter's a run may use, and who says so."""

    bytes: int
    source: str


def budget_of(meter: Meter, memory: str | None) -> Budget:
    """Return the budget that `memory` gives: "6GiB", or "80%" of the meter's limit; by default the limit less a margin.

    More than the limit is no budget that could be kept: then it is the limit.

    Raises:
        BudgetError: More is in use already than `memory` allows.
        OptionError: `memory` is no amount.

    """
    amount = _amount(memory)
    found = _resolved(meter, amount)
    now = meter.now_bytes()
    if amount is not None and found.bytes < now:
        short = f"--memory {amount.text} is less than what is in use already ({_mebibytes(now)} MiB)"
        raise BudgetError(f"{short}: give more, or free some first.")
    return found


class BudgetOfRun:
    """The budget of one run, resolved once; what is free of it follows what other processes leave."""

    def __init__(self, meter: Meter, memory: str | None) -> None:
        self.meter = meter
        self._amount = _amount(memory)
        self.budget = _resolved(meter, self._amount)
        self._allowed, self._read_s = self.budget.bytes, time.monotonic()

    def free_bytes(self) -> int:
        """Return what the run may still take, below 0 where it has taken more; limits are read once a second."""
        now_s = time.monotonic()
        if now_s - self._read_s > READ_AGAIN_S:
            self._allowed, self._read_s = self._allowed_now(), now_s
        return self._allowed - self.meter.now_bytes()

    def _allowed_now(self) -> int:
        if self._amount is None:
            return _resolved(self.meter, None).bytes
        return min(self.budget.bytes, self.meter.limit_bytes())  # a share is one of what there was at the beginning


def _amount(memory: str | None) -> Amount | None:
    if memory is None:
        return None
    amount = amount_from(memory)
    if amount is None:
        raise OptionError(f"--memory takes an amount with its unit, such as 6GiB, 500MB or 80%, found `{memory}`.")
    return amount


def _resolved(meter: Meter, amount: Amount | None) -> Budget:
    limit = meter.limit_bytes()
    if amount is None:
        margin = max(_LEAST_MARGIN_BYTES, int(meter.margin_share * limit))
        share = f"what this process may have, less a margin of {_mebibytes(margin)} MiB"
        return Budget(max(0, limit - margin), share)
    asked, source = amount.bytes_of(limit), f"--memory {amount.text}"
    if asked > limit:
        return Budget(limit, f"{source}, of which this process may have {_mebibytes(limit)} MiB")
    return Budget(asked, source)


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f}"

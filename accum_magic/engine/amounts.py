"""Amounts of memory as people write them: "6GiB", "1.5 GB", "80%"; needs no torch, so that the hall can ask too."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_UNITS = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+|%)")
_ALL = 100


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of bytes, or a share of what there is."""

    text: str  # as it was written
    number: Fraction
    is_share: bool

    def bytes_of(self, limit_bytes: int) -> int:
        """Return the amount in bytes; a share is one of `limit_bytes`."""
        return int(self.number * limit_bytes if self.is_share else self.number)


def amount_from(text: str) -> Amount | None:
    """Read an amount; None where it is none.

    A number needs a unit, and not just `G`, which means 10^9 to some and 2^30 to others. None is no amount at
    all, and a share of more than 100 % is more than there is.

    >>> amount_from("6GiB").bytes_of(0), amount_from("1.5 GB").bytes_of(0), amount_from("80%").bytes_of(1000)
    (6442450944, 1500000000, 800)
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        return None
    number, unit = Fraction(found[1]), found[2].lower()
    if unit == "%":
        return Amount(text.strip(), number / _ALL, is_share=True) if 0 < number <= _ALL else None
    count = number * _UNITS.get(unit, 0)
    return Amount(text.strip(), count, is_share=False) if count >= 1 else None

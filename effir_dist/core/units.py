"""What the numbers of a measure count, and how they are written: in tables, on axes and for people."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """What numbers count, and how they are written."""

    name: str
    digits: int = 0
    """After the point; significant ones where `significant`, as for speeds of any size."""
    significant: bool = False
    scale: float = 1.0
    """A number is shown times this."""
    suffix: str = ""
    """After a number that is shown. Columns of numbers have it in their head instead."""
    axis: tuple[tuple[str, float], ...] = ()
    """Units of a plot's axis and their sizes, smallest first; empty: the numbers as they are."""
    counted: bool = False
    """Whether numbers are whole and above 0. They may be shortened, as 18.9 M."""

    def text(self, value: float | None) -> str:
        """1234.5 -> '1,234.5', with the suffix; '-' where there is no number."""
        if value is None or math.isnan(value):
            return "-"
        shown = value * self.scale
        if self.significant and shown < 10 ** (self.digits - 1):
            return f"{shown:.{self.digits}g}{self.suffix}"
        return f"{shown:,.{0 if self.significant else self.digits}f}{self.suffix}"

    def axis_unit(self, largest: float) -> tuple[str, float]:
        """Name and size of the axis' unit for values up to `largest`; no name and 1 where there is none."""
        fitting = [unit for unit in self.axis if unit[1] <= largest]
        return (fitting or list(self.axis[:1]) or [("", 1.0)])[-1]


PARAMETERS = Unit("count", axis=(("million", 1e6), ("billion", 1e9)), counted=True)
SHARE = Unit("of the unpruned model", 1, scale=100, suffix=" %", axis=(("%", 0.01),))
RATIO = Unit("times the unpruned model", 2, suffix="×")
SCORE = Unit("", 4)
SECONDS = Unit("s", 1, suffix=" s", axis=(("s", 1.0),))
MILLISECONDS = Unit("ms", 2, suffix=" ms", axis=(("ms", 1.0),))
RATE = Unit("texts/s", 3, significant=True)
BYTES = Unit("bytes")
MEGABYTES = Unit("bytes", 1, scale=1e-6, suffix=" MB", axis=(("MB", 1e6),))
GIBIBYTES = Unit("bytes", 1, scale=2**-30, suffix=" GiB", axis=(("GiB", 2**30),))

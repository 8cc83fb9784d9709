"""Plain values as files and samplers hold them, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Json = dict[str, Any]
"""A JSON or YAML object, on its way from or to a file: whoever reads one checks its fields."""
Value = bool | int | float | str
"""Of a setting or a search parameter."""
Point = dict[str, Value]
"""Search parameter -> value."""
Suggested = Mapping[str, Value]
"""A point that is only read."""
LOW_FIDELITY = "low_fidelity"
"""User attribute of a trial of Optuna: its score by a cheap evaluation, in the direction of the quality."""
Progress = Mapping[str, str | int | float]
"""How far a trial is: any of `phase`, `step`, `steps`, `loss`."""
Report = Callable[[dict[str, str | int | float]], None]
"""Takes the progress of a trial from its worker."""


def as_float(value: object) -> float | None:
    """A number, or a text that is one, as a float; None for anything else. One too large for a float is infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        return None

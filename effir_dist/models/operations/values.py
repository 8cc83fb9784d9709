"""The values that a parameter of a search space may have: a range or a list of choices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from effir_dist.core.errors import InputError
from effir_dist.core.values import Json, as_float


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def nearest(self, value: float) -> float:
        """The value of the range that is nearest."""
        inside = min(max(value, self.low), self.high)
        return inside if self.step is None else round(self.low + self.step * round((inside - self.low) / self.step), 9)

    def to_dict(self) -> Json:
        """Plain data, as `parse_range` reads it."""
        tree: Json = {"low": self.low, "high": self.high}
        if self.step is not None:
            tree["step"] = self.step
        if self.log:
            tree["log"] = True
        return tree


Values = Range | tuple[Any, ...]


def parse_range(where: str, value: Any) -> Range:
    """A range from plain data. Raises InputError that names `where`."""
    shape = "{low: A, high: B}, with step: or log: true if wanted"
    if not isinstance(value, dict) or not {"low", "high"} <= set(value) <= {"low", "high", "step", "log"}:
        raise InputError(f"{where} must be {shape}, got {value!r}")
    low, high, step = (as_float(value.get(key)) for key in ("low", "high", "step"))
    numbers = [low, high, *([] if value.get("step") is None else [step])]
    if low is None or high is None or not all(n is not None and math.isfinite(n) for n in numbers):
        raise InputError(f"{where} must hold finite numbers: {shape}, got {value!r}")
    log = bool(value.get("log", False))
    if low > high or (log and (low <= 0 or step)) or (step is not None and step <= 0):
        raise InputError(f"{where} must have low <= high, a step above 0, and no step with log; got {value!r}")
    return Range(low, high, step, log)


def value_count(values: Values, integers: bool = False) -> int | None:
    """How many values a parameter may have; None where they are continuous. integers: whether they are integers."""
    if isinstance(values, tuple):
        return len(values)
    step = values.step or (1.0 if integers else None)
    return None if step is None else math.floor((values.high - values.low) / step + 1e-9) + 1

"""Reading JSON objects field by field: each is checked, and an error names the file and the field."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from effir_dist.core.errors import InputError
from effir_dist.core.measures import MEASURES
from effir_dist.core.values import Json
from effir_dist.models.facts import PlanFacts
from effir_dist.runs import legacy
from effir_dist.runs.sizes import FIELDS, SetSize

T = TypeVar("T")

_MISSING: Any = object()


class Reader:
    """The fields of a JSON object, each checked as it is read. Errors name file and field."""

    def __init__(self, tree: Json, path: object) -> None:
        self.tree, self.path = tree, path

    def _read(self, name: str, default: T, holds: Callable[[Any], bool], expected: str) -> Any:
        value = self.tree.get(name)
        if value is None and default is not _MISSING:
            return default
        if not holds(value):
            raise InputError(
                f"{self.path}: {name} must be {expected}, got {str(value)[:80]!r}; the search did not write that: "
                "put the file back as it was, or remove it and --resume runs its trial again"
            )
        return value

    def text(self, name: str, default: str = _MISSING) -> str:
        return str(self._read(name, default, lambda v: isinstance(v, str), "text"))

    def one_of(self, name: str, allowed: tuple[str, ...]) -> Any:
        return self._read(name, _MISSING, lambda v: v in allowed, " or ".join(repr(each) for each in allowed))

    def count(self, name: str, default: int = _MISSING) -> int:
        return int(self._read(name, default, _is_count, "a whole number, 0 or more"))

    def number(self, name: str, default: float = _MISSING, least: float = 0.0, most: float = math.inf) -> float:
        expected = "a number from 0 to 1" if most == 1 else f"a number, {least:g} or more"
        found: float = self._read(name, default, lambda v: _is_number(v) and least <= v <= most, expected)
        return found

    def blocks(self, name: str) -> tuple[int, ...]:
        holds = lambda v: isinstance(v, list) and all(map(_is_count, v))  # noqa: E731
        return tuple(self._read(name, (), holds, "a list of whole numbers"))

    def texts(self, name: str) -> tuple[str, ...]:
        holds = lambda v: isinstance(v, list) and all(isinstance(each, str) for each in v)  # noqa: E731
        return tuple(self._read(name, (), holds, "a list of texts"))

    def mapping(self, name: str, default: Json = _MISSING) -> Json:
        return dict(self._read(name, default, lambda v: isinstance(v, dict), "an object"))

    def objects(self, name: str, needed: bool = False) -> list[Json]:
        holds = lambda v: isinstance(v, list) and all(isinstance(each, dict) for each in v)  # noqa: E731
        return list(self._read(name, _MISSING if needed else [], holds, "a list of objects"))

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        return None if self.tree.get(name) is None else read(name)

    def values(self, *needed: str) -> dict[str, float]:
        """All measures that are there, and the unpruned model's. Those that are needed must be."""
        found: dict[str, float] = {}
        unpruned = {entry.unpruned: entry for entry in MEASURES.values() if entry.unpruned}
        for name, entry in {**MEASURES, **unpruned}.items():
            if self.tree.get(name) is None and name not in needed:
                continue
            counted = entry.unit.counted
            holds = (lambda v: _is_count(v) and v > 0) if counted else (lambda v, most=entry.most: _within(v, most))
            expected = "a number from 0 to 1" if entry.most == 1 else "a number, 0 or more"
            found[name] = self._read(name, _MISSING, holds, "a whole number above 0" if counted else expected)
        return legacy.values(found)

    def facts(self) -> PlanFacts:
        """What a plan leaves of the model."""
        return PlanFacts(
            dropped_mlp=self.blocks("dropped_mlp"),
            dropped_attention=self.blocks("dropped_attention"),
            mlp_widths=self.blocks("mlp_widths"),
            width_ratio=self.number("width_ratio", 1.0, most=1.0),
            dimension=self.count("dimension", 0),
            other_operations=self.texts("other_operations"),
        )

    def datasets(self) -> dict[str, dict[str, float]]:
        """Data set -> metric -> value, nulls left out."""
        tree = self._datasets()
        return {n: {m: v for m, v in of.items() if v is not None and m not in FIELDS} for n, of in tree.items()}

    def sizes(self, name: str = "datasets") -> dict[str, SetSize]:
        """Data set -> how many queries and documents its scores are of, of those that say."""
        tree = self._datasets(name)
        counted = {n: {f: of[f] for f in FIELDS if f in of} for n, of in tree.items() if {*FIELDS[:2]} <= of.keys()}
        return {n: SetSize(**counts) for n, counts in counted.items()}

    def _datasets(self, name: str = "datasets") -> dict[str, Json]:
        expected = "an object of data sets, each with metrics from 0 to 1 and counts of queries and documents"
        found: dict[str, Json] = self._read(name, {}, _is_datasets, expected)
        return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _within(value: Any, most: float) -> bool:
    return _is_number(value) and 0 <= value <= most


def _is_datasets(value: Any) -> bool:
    def holds(name: str, value: Any) -> bool:
        return value is None or (_is_count(value) if name in FIELDS else _within(value, 1.0))

    def numbers(each: Any) -> bool:
        return isinstance(each, dict) and all(holds(name, v) for name, v in each.items())

    return isinstance(value, dict) and all(map(numbers, value.values()))

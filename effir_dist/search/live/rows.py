"""A line a finished trial, where there is no terminal that redraws: cells in columns under one head, 80 at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from effir_dist.core.measures import BLOCKS_SHARE, DEFAULT, MEASURES, QUALITY, SIZE_SHARE, Measure
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import TrialRecord
from effir_dist.runs.stages import stage_text
from effir_dist.runs.trial_spec import FULL_RECOVERY
from effir_dist.search.live.text import dropped_text, duration, seconds_text

LEAST_PLAN, GOOD_PLAN, MOST_PLAN = 8, 16, 28
"""Columns for what a trial drops."""
LEFT_OUT = ("total", "left", "width")
"""What goes, one after the other, where less than GOOD_PLAN would be left; the report has it."""
TRIAL = 6
"""Columns of a trial's name and the space behind it."""
MARK = "*"
"""Behind the score of a trial that is on the front so far."""


@dataclass(frozen=True)
class _Cell:
    head: str
    width: int
    text: Callable[[TrialRecord], str]
    mark: bool = False
    """Whether a mark may follow it."""


class Rows:
    """The lines of one search."""

    def __init__(self, goal: Goal, first: TrialRecord, count_width: int, width: int) -> None:
        """first: a record whose measures are those of all. count_width: of `[ 3/13] `. width: of a line."""
        self.count_width = count_width
        self.cells = _cells(goal, first)
        for name in LEFT_OUT:
            if self._plan_width(width) < GOOD_PLAN:
                self.cells = [cell for cell in self.cells if cell.head != name]
        self.plan = min(MOST_PLAN, max(LEAST_PLAN, self._plan_width(width)))

    def _plan_width(self, width: int) -> int:
        taken = sum(cell.width + 1 + cell.mark for cell in self.cells)
        return width - self.count_width - TRIAL - taken

    def head(self) -> str:
        """The names of the columns; several lines where one of them has several."""
        heads = [cell.head.split("\n") for cell in self.cells]
        tall = max(map(len, heads))
        lines = []
        for row in range(tall):
            names = [([""] * (tall - len(head)) + head)[row] for head in heads]
            start = f"{'trial':{TRIAL}}{'plan':{self.plan}}" if row == tall - 1 else " " * (TRIAL + self.plan)
            lines.append(" " * self.count_width + start + self._joined(names, ""))
        return "\n".join(line.rstrip() for line in lines)

    def line(self, record: TrialRecord, on_front: bool, left: float | None) -> str:
        """A complete trial, without its count. left: seconds to the end of the search, where that is known."""
        plan = _plan_text(record)
        plan = plan if len(plan) <= self.plan else f"{plan[: self.plan - 1]}…"
        remaining = "" if left is None else duration(left, coarse=True)
        texts = [remaining if cell.head == "left" else cell.text(record) for cell in self.cells]
        return f"{record.trial:{TRIAL}}{plan:{self.plan}}{self._joined(texts, MARK if on_front else '')}".rstrip()

    def _joined(self, texts: list[str], mark: str) -> str:
        cells = zip(self.cells, texts, strict=True)
        return "".join(f" {text:>{cell.width}}" + (f"{mark:1}" if cell.mark else "") for cell, text in cells)


def _cells(goal: Goal, first: TrialRecord) -> list[_Cell]:
    costs = [entry for entry in MEASURES.values() if _is_shown(entry, goal) and entry.name in first.values]
    return [
        _Cell("width", 5, lambda record: f"{record.facts.width_ratio:.3g}"),
        *(_share(name) for name in (BLOCKS_SHARE, SIZE_SHARE)),
        *(_cost(entry, first) for entry in costs),
        _Cell(MEASURES[QUALITY].label, 7, lambda record: f"{record.values[QUALITY]:.4f}", mark=True),
        _Cell("time", 6, seconds_text),
        _Cell("left", 5, lambda record: ""),
    ]


def _is_shown(entry: Measure, goal: Goal) -> bool:
    """Whether it is a cost of the search that not every line has, or a speed-up: that where it was measured."""
    return entry.speedup or (entry.name in goal.costs and entry.name not in DEFAULT)


def _share(name: str) -> _Cell:
    head = MEASURES[name].head
    return _Cell(head, 6, lambda r: f"{100 * r.values[name]:.0f} %" if name in r.values else "-")


def _cost(entry: Measure, first: TrialRecord) -> _Cell:
    head = (entry.head or entry.label).replace(" ", "\n")
    width = max(*map(len, head.split("\n")), len(entry.text(first.values[entry.name])))
    return _Cell(head, width, lambda record: entry.text(record.values.get(entry.name)))


def _plan_text(record: TrialRecord) -> str:
    """What the trial drops; of a full recovery whose plan it is, of the base that it is that."""
    stage = stage_text(record.spec.stage, record.spec.continues)
    if record.spec.stage == FULL_RECOVERY:
        return stage
    again = f"repeat of {record.spec.repeat_of}" if record.spec.repeat_of else ""
    return ": ".join(filter(None, (stage or again, dropped_text(record.facts))))

"""The view of a terminal that redraws, drawn from what `view` knows at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import TrialRecord
from effir_dist.search.live.front import front_table
from effir_dist.search.live.steps import Step
from effir_dist.search.live.text import duration, progress_text, reason_text

MOST_RUNNING = 8


@dataclass
class Running:
    """A trial that runs."""

    label: str
    """What it tries."""
    started: float
    """By the clock of the view, in seconds."""
    progress: dict[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """What is known of a search. Times in seconds."""

    title: str
    total: int
    """Trials to be done, those of earlier calls with them."""
    records: Sequence[TrialRecord]
    running: Mapping[str, Running]
    saved: int
    """Suggestions that equalled a finished trial."""
    steps: Sequence[Step]
    """The one that is under way and those behind it; none before the first."""
    screened: str
    """How many plans were scored below full training, in words."""
    goal: Goal
    best: Sequence[TrialRecord]
    """Records that hold the front so far."""
    now: float
    spent: float
    left: float | None
    """None where it is not known, or nothing is to be done."""


def picture(moment: Moment, width: int, height: int) -> RenderableType:
    """All of it in `width` columns and no more than `height` lines."""
    rows = list(moment.running.items())[:MOST_RUNNING]
    failed = [r for r in moment.records if not r.complete]
    steps = _step_lines(moment)
    room = height - 8 - len(rows) - bool(failed) - len(steps)
    parts: list[RenderableType] = [Text(moment.title, style="bold", no_wrap=True, overflow="ellipsis")]
    parts += [_progress(moment, len(failed), width), *steps, Text(), _front(moment, max(2, room))]
    if rows:
        parts += [Text(), _running_table(rows, moment.now)]
    if failed:
        text = f"{failed[-1].trial} failed: {reason_text(failed[-1])}"
        parts.append(Text(text, style="red", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _step_lines(moment: Moment) -> list[Text]:
    """What the search does now and next, and what that came to."""
    if not moment.steps:
        return []
    now, *later = moment.steps
    trained = sum(record.spec.searched for record in moment.records)
    counts = filter(None, (f"{trained} of {now.trials} trained", moment.screened)) if now.trials else ()
    lines = {"now": ": ".join(filter(None, (now.brief, ", ".join(counts))))}
    if later:
        lines["next"] = ", ".join(step.brief for step in later)
    lines["page"] = moment.steps[-1].writes
    return [
        Text.assemble((f"{name:4} ", "dim"), text, no_wrap=True, overflow="ellipsis")
        for name, text in lines.items()
        if text
    ]


def _progress(moment: Moment, failed: int, width: int) -> RenderableType:
    done = len(moment.records)
    counts = [f"{done}/{moment.total} trials", f"{len(moment.running)} running"]
    counts += [f"{failed} failed"] if failed else []
    times = duration(moment.spent)
    times += f", {duration(moment.left, coarse=True)} of trials left" if moment.left is not None else ""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(total=moment.total, completed=done, width=max(8, width // 8))
    saved = f"  {moment.saved} reused" if moment.saved else ""
    grid.add_row(bar, Text(f"{', '.join(counts)}  {times}{saved}"))
    return grid


def _front(moment: Moment, room: int) -> RenderableType:
    best = moment.goal.front(moment.best)
    if not best:
        found = "no feasible trial" if any(r.complete for r in moment.records) else "no trial"
        return Text(f"front: {found} is complete yet", style="dim")
    shown = best if len(best) <= room else best[: room - 1]
    more = f", {len(best) - len(shown)} more on the front" if len(shown) < len(best) else ""
    return Group(
        front_table(shown, moment.goal),
        Text(f"hypervolume {moment.goal.hypervolume(moment.best):.3f}{more}", style="dim"),
    )


def _running_table(rows: Sequence[tuple[str, Running]], now: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("running", "", "", ""):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for trial, running in rows:
        table.add_row(trial, running.label, progress_text(running.progress), duration(now - running.started))
    return table

"""A front as a table for a terminal of 80 columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from effir_dist.core.measures import MEASURES, QUALITY, SIZE, TERMINAL, TRIAL_SECONDS, Measure, shown_in
from effir_dist.core.wrapping import WIDTH
from effir_dist.runs.objectives import Goal
from effir_dist.runs.stages import stage_text

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

LEFT_OUT = (TRIAL_SECONDS, SIZE, "dropped_attention", "width_ratio", "stage")
"""What goes, one after the other, where a table is too wide; files and page have it."""


@dataclass(frozen=True)
class Column:
    """A column of the table, as texts."""

    name: str
    head: str
    texts: tuple[str, ...]
    shortened: bool = False
    """Whether its texts may be cut."""

    @property
    def least(self) -> int:
        """Its width, as short as may be."""
        return max(len(text) for text in (*self.head.split("\n"), *(() if self.shortened else self.texts)))

    @property
    def empty(self) -> bool:
        return not any(text.strip("-") for text in self.texts)


def front_text(table: pd.DataFrame, goal: Goal | None = None) -> str:
    """The rows of a front. With significance.COLUMNS, a model that does not differ significantly from the one above is
    marked; with safety.COLUMNS, it says which are safe."""
    columns = [column for column in _columns(table, goal or Goal()) if not column.empty]
    for name in LEFT_OUT:
        if _least_width(columns) > WIDTH:
            columns = [column for column in columns if column.name != name]
    return _drawn(_rich_table(columns))


def has_noise(table: pd.DataFrame) -> bool:
    """Whether a model does not differ significantly from the next larger one. None is where that is not known."""
    return "significant" in table and any(significant is False for significant in table["significant"])


def _columns(table: pd.DataFrame, goal: Goal) -> list[Column]:
    """All that may be shown; empty ones are left out later."""
    found = [_plain(table, "run", "run", shortened=True)] if table["run"].nunique() > 1 else []
    found.append(_plain(table, "trial", "trial"))
    if "stage" in table:
        words = zip(table["stage"], table["continues"], strict=True)
        found.append(Column("stage", "stage", tuple(stage_text(stage, continues) for stage, continues in words)))
    gone = {"dropped_mlp": "dropped\nMLPs", "dropped_attention": "attentions"}
    found += [_plain(table, name, head, shortened=True) for name, head in gone.items()]
    found.append(Column("width_ratio", "width", tuple(f"{width:.3g}" for width in table["width_ratio"])))
    for entry in _entries(table, goal):
        found.append(_measured(table, entry.name, entry, entry.head or entry.label))
        if entry.name == QUALITY:
            found += _beside_quality(table, entry)
    return found


def _entries(table: pd.DataFrame, goal: Goal) -> list[Measure]:
    """The measures that are shown: speed-ups too where they were measured."""
    faster = [m.name for m in MEASURES.values() if m.speedup and m.name in table]
    return shown_in(TERMINAL, {*goal.objectives, *faster})


def _beside_quality(table: pd.DataFrame, entry: Measure) -> list[Column]:
    """The quality on other queries, and what it means."""
    others = {f"test_{QUALITY}": "test", f"held_out_{QUALITY}": "held\nout"}
    found = [_measured(table, name, entry, head) for name, head in others.items() if name in table]
    if "significant" in table:
        found.append(Column("noise", "", tuple("~" if each is False else "" for each in table["significant"])))
    if "safe" in table:
        words = {True: "yes", False: "no"}
        found.append(Column("safe", "safe", tuple(words.get(each, "") for each in table["safe"])))
    return found


def _plain(table: pd.DataFrame, name: str, head: str, shortened: bool = False) -> Column:
    return Column(name, head, tuple(map(str, table[name])), shortened)


def _measured(table: pd.DataFrame, name: str, entry: Measure, head: str) -> Column:
    return Column(name, head, tuple(entry.text(value) for value in table[name].astype(float)))


def _rich_table(columns: list[Column]) -> Table:
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    for column in columns:
        # A text without spaces is not wrapped but cut.
        least = column.least if column.shortened else None
        found.add_column(
            Text(column.head, justify="right"),
            justify="right",
            vertical="bottom",
            no_wrap=not column.shortened,
            overflow="ellipsis",
            min_width=least,
        )
    for row in zip(*(column.texts for column in columns), strict=True):
        found.add_row(*map(Text, row))
    return found


def _least_width(columns: list[Column]) -> int:
    """With all that may be cut as short as its head, and a space between columns."""
    return sum(column.least + 1 for column in columns) - 1


def _drawn(table: Table) -> str:
    import io

    from rich.console import Console

    file = io.StringIO()
    Console(file=file, width=WIDTH, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip("\n").splitlines())

"""The front so far as a table of the live view, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from effir_dist.core.measures import BLOCKS_SHARE, DEFAULT, MEASURES, QUALITY, SIZE_SHARE
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import TrialRecord
from effir_dist.runs.stages import stage_text
from effir_dist.search.live.text import dropped_text, seconds_of

WIDEST_PLAN = 24


def front_table(shown: Sequence[TrialRecord], goal: Goal) -> Table:
    """A row a record: sizes as shares of the unpruned model's, the goal's other costs, nDCG@10."""
    shares = [MEASURES[name] for name in ((BLOCKS_SHARE,) if len(goal.costs) > 1 else (BLOCKS_SHARE, SIZE_SHARE))]
    names = [f"{r.trial} {stage_text(r.spec.stage, r.spec.continues)}".rstrip() for r in shown]
    costs = [MEASURES[name] for name in goal.costs if name not in DEFAULT]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("front", no_wrap=True, min_width=5)
    room = WIDEST_PLAN - 6 * len(costs) - max(len(name) for name in names) + len(shown[0].trial)  # for stages
    table.add_column("MLPs dropped", no_wrap=True, overflow="ellipsis", max_width=max(room, len("MLPs dropped")))
    heads = [entry.head or entry.label for entry in (*shares, *costs)]
    for head in ("width", *heads, MEASURES[QUALITY].label, "seconds"):
        table.add_column(head, justify="right", no_wrap=True, vertical="bottom")
    for name, record in zip(names, shown, strict=True):
        sizes = [f"{100 * record.values[m.name]:.0f} %" if m.name in record.values else "-" for m in shares]
        others = [entry.text(record.value(entry.name)) for entry in costs]
        scores = f"{record.values[QUALITY]:.4f}", f"{seconds_of(record):.0f}"
        table.add_row(name, dropped_text(record.facts), f"{record.facts.width_ratio:.3g}", *sizes, *others, *scores)
    return table

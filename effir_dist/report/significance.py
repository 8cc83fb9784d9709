"""Whether a model on the front differs significantly from the next larger one, or whether their difference is noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from effir_dist.core.measures import QUALITY
from effir_dist.evaluate.intervals import Interval, Sample, difference_interval

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("step", "step_low", "step_high", "significant")
"""Of a front: nDCG@10 minus that of the next larger model, its 95 % paired interval, and whether 0 is outside."""


def steps(
    front: Sequence[str],
    queries: pd.DataFrame,
    chosen: Sequence[str] = (),
    repeats: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Interval]:
    """Trial -> its nDCG@10 minus that of the trial before it in `front` (the most expensive first), paired by query.

    queries: per-query scores of all splits. chosen: the data sets that count, by default all. repeats: trial -> itself
    and its repeats. Trials that were not scored on the same queries are left out.
    """
    members = {trial: [*(repeats or {}).get(trial, (trial,))] for trial in front}
    search = queries[(queries["split"] == "search") & queries["trial"].isin({t for m in members.values() for t in m})]
    tables = {str(n): t for n, t in search.groupby("dataset", sort=False) if not chosen or n in chosen}
    wide = {name: table.pivot(index="trial", columns="query_id", values=QUALITY) for name, table in tables.items()}
    samples = {trial: _sample(wide, group) for trial, group in members.items()}
    found = {}
    for larger, trial in pairwise(front):
        one, other = samples[trial], samples[larger]
        if one and one.keys() == other.keys():
            found[trial] = difference_interval(one, other)
    return found


def with_steps(
    front: pd.DataFrame, queries: pd.DataFrame, chosen: Sequence[str], repeats: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """A front with COLUMNS; the first row, and rows without per-query scores, have none."""
    found = steps([*front["trial"]], queries, chosen, repeats)
    nothing = (float("nan"), float("nan"), float("nan"), None)
    rows = {trial: (each.value, each.low, each.high, not each.is_noise) for trial, each in found.items()}
    listed = [rows.get(trial, nothing) for trial in front["trial"]]
    columns: Any = {name: [row[place] for row in listed] for place, name in enumerate(COLUMNS)}
    return front.assign(**columns)


def _sample(wide: Mapping[str, pd.DataFrame], members: Sequence[str]) -> Sample:
    """Data set -> [S, Q] of those trials that were scored on all of its queries."""
    found = {}
    for name, table in wide.items():
        rows = table.loc[[t for t in members if t in table.index]].dropna(axis="index")
        if len(rows):
            found[name] = rows.to_numpy(float)
    return found

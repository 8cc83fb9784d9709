"""What scores are of, and what was trained on: the queries and documents beside every score of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from effir_dist.core.config import flatten
from effir_dist.core.measures import MEASURES, QUALITY
from effir_dist.core.settings import DataConfig
from effir_dist.data.roles import LeftOut, described
from effir_dist.report.score_tables import MEAN
from effir_dist.runs.records import SplitScores, TrialRecord
from effir_dist.runs.run_folder import SPLITS, Run
from effir_dist.runs.sizes import FIELDS, SetSize, Sizes, text, total

if TYPE_CHECKING:
    import pandas as pd

COUNTED = FIELDS[:2]
"""Columns of a table of trials: `queries` and `documents`."""
SizesOf = Mapping[str, Mapping[str, Sizes]]
"""Split -> trial -> what its scores are of."""


def sizes_of(records: Sequence[TrialRecord], splits: Mapping[str, Mapping[str, SplitScores]]) -> SizesOf:
    """Of the search's queries (records), and of other splits' scores."""
    found: dict[str, Mapping[str, Sizes]] = {"search": {r.trial: r.sizes for r in records}}
    return found | {split: {trial: s.sizes for trial, s in scores.items()} for split, scores in splits.items()}


def with_counts(scores: pd.DataFrame, sizes: SizesOf, chosen: Sequence[str]) -> pd.DataFrame:
    """A `scores_table` with columns queries, documents, all_queries and all_documents; missing in older records."""
    rows = zip(scores["split"], scores["trial"], scores["dataset"], strict=True)
    found = [_size(sizes.get(split, {}).get(trial, {}), dataset, chosen) for split, trial, dataset in rows]
    counted = scores.copy()
    for name in FIELDS:
        counted[name] = [getattr(size, name) if size else None for size in found]
    return counted.astype(dict.fromkeys(FIELDS, "Int64"))


def _size(sizes: Sizes, dataset: str, chosen: Sequence[str]) -> SetSize | None:
    if dataset != MEAN:
        return sizes.get(dataset)
    return total({name: size for name, size in sizes.items() if name in (chosen or sizes)})


def counts(sizes: Sizes, prefix: str = "") -> dict[str, int | None]:
    """The columns queries and documents of a table of trials: of all data sets together."""
    size = total(sizes)
    return {f"{prefix}{name}": getattr(size, name) if size else None for name in COUNTED}


def scored_on(run: Run, records: Sequence[TrialRecord]) -> dict[str, str]:
    """Split -> data sets with their queries and documents, as `sizes.text`; those splits that scored anything."""
    sizes = sizes_of(records, {split: run.split_scores(split) for split in SPLITS if split != "search"})
    return {split: said for split, of in sizes.items() if (said := text(of.values()))}


def scored_on_lines(run: Run, records: Sequence[TrialRecord]) -> list[str]:
    """What a terminal shows below scores."""
    names = {"search": MEASURES[QUALITY].label, "test": "test", "held_out": "held out"}
    return [f"{names[split]} is measured on: {said}" for split, said in scored_on(run, records).items()] + left_out(run)


def left_out(run: Run) -> list[str]:
    """A line for each data set whose queries lost a role, as their text has another; held-out ones too."""
    lines = [str(LeftOut(**each)) for each in run.extra.get("left_out", [])]
    held = {n: c for scores in run.split_scores("held_out").values() for n, c in scores.left_out.items()}
    return lines + [str(LeftOut(name, "held-out", "training or search", count)) for name, count in held.items()]


def data_of(run: Run) -> str:
    """The data sets of a run with their roles, as `roles.described`."""
    settings = flatten(run.config)
    names = {name: settings.get(f"data.{name}") or () for name in ("paths", "train_paths")}
    paths, trained = ((str(v),) if isinstance(v, str) else tuple(map(str, v)) for v in names.values())
    return described(DataConfig(paths, trained, settings.get("data.train_on_scored"))) if paths else ""

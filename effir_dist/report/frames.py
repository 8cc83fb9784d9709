"""A run as pandas data frames: `effir_dist.load_run(path)`. The columns are listed in docs/reference/report.md."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir_dist.core.config import setting_names
from effir_dist.core.errors import InputError
from effir_dist.core.measures import BLOCKS, CLOCK, MEASURES, METRICS, QUALITY, SIZE, SIZE_SHARE, TABLE, shown_in
from effir_dist.core.storage import read_bytes
from effir_dist.importance.store import drop_order
from effir_dist.report.safety import Safety, judge, safe_loss_of, with_safety
from effir_dist.report.score_tables import INTERVAL, MEAN, scores_table
from effir_dist.report.scored_on import COUNTED, counts, sizes_of, with_counts
from effir_dist.report.significance import with_steps
from effir_dist.runs.objectives import Goal, compared_with, goal_of
from effir_dist.runs.records import SplitScores, TrialRecord, Values
from effir_dist.runs.repeats import groups, mean_metrics, pooled
from effir_dist.runs.run_folder import SPLITS, Run
from effir_dist.runs.tries import unscored

if TYPE_CHECKING:
    import pandas as pd

NOTHING = float("nan")
Splits = Mapping[str, Mapping[str, SplitScores]]
"""`test` or `held_out` -> trial -> its scores on those queries."""


@dataclass(frozen=True)
class RunFrames:
    """What a run found, as data frames; docs/reference/report.md lists their columns."""

    trials: pd.DataFrame
    """A row a finished trial, failed ones too, by number."""
    front: pd.DataFrame
    """The rows of `trials` that are on the front, the most expensive first."""
    queries: pd.DataFrame
    """A row a trial, split, data set and query."""
    scores: pd.DataFrame
    """A row a trial, split and data set: nDCG@10 and its difference from the unpruned model, with 95 % intervals."""
    safety: Safety
    """Which models of the front are safe, and the smallest of them."""
    mlp_widths: pd.DataFrame
    """A row a trial and block: `trial`, `block`, and `width`, the neurons of its MLP, 0 where that is dropped."""


def load_run(path: str | Path) -> RunFrames:
    """The frames of the run in a folder (or a bucket), also while it is searched.

    Raises InputError where there is no run, no trial has finished, or a record is not as the search writes it.
    """
    return frames_of(Run.open(path))


def frames_of(run: Run) -> RunFrames:
    """`load_run` of a run that is open."""
    records = run.results()
    if not records:
        raise nothing_yet(run)
    return frames_from(run, records)


def nothing_yet(*runs: Run) -> InputError:
    """What to raise where none of the runs has a finished trial."""
    names, ended = " or ".join(str(run.folder) for run in runs), runs[0].extra.get("ended")
    if ended and len(runs) == 1:
        again = f"--resume {names} --time-budget LONGER"
        return InputError(f"no trial of {names} finished before its search ended ({ended}); go on with {again}")
    watch = "watch with `effir_dist.report RUN --serve`"
    return InputError(f"no trial of {names} has finished yet; wait for the first, or {watch}")


def chosen_sets(run: Run) -> tuple[str, ...]:
    """The data sets whose mean is the quality of a trial; empty for all."""
    return tuple((run.config.get("search") or {}).get("quality_sets") or ())


def frames_from(run: Run, records: list[TrialRecord]) -> RunFrames:
    """The frames of some of a run's records, at least one."""
    goal, chosen = goal_of(run.config), chosen_sets(run)
    queries = queries_table(run, records)
    baseline = compared_with(records)
    repeats = {trial: [r.trial for r in group] for trial, group in groups(records).items()}
    splits = {split: _pooled(run.split_scores(split), repeats) for split in ("test", "held_out")}
    scores = scores_table(queries, baseline.trial if baseline else None, chosen, repeats)
    scores = with_counts(scores, sizes_of(records, splits), chosen)
    trials = trials_table(records, splits, scores, drop_order(run), goal)
    for split in splits:
        if missing := unscored(run, split):
            trials[f"{split}_failed"] = [missing[t].reason if t in missing else "" for t in trials["trial"]]
    safety = judge(goal, records, queries, safe_loss_of(run.config), chosen, repeats)
    front = with_steps(front_of(trials, goal), queries, chosen, repeats)
    return RunFrames(trials, with_safety(front, safety), queries, scores, safety, _widths_table(records))


def _widths_table(records: Sequence[TrialRecord]) -> pd.DataFrame:
    import pandas as pd

    found = [(r.trial, block, width) for r in records for block, width in enumerate(r.facts.mlp_widths)]
    return pd.DataFrame(found, columns=["trial", "block", "width"])


def _pooled(scores: Mapping[str, SplitScores], repeats: Mapping[str, Sequence[str]]) -> dict[str, SplitScores]:
    """Trial -> its scores on other queries, the mean over its seeds where it was repeated."""
    found = dict(scores)
    for trial in scores.keys() & repeats.keys():
        each = [scores[t] for t in repeats[trial] if t in scores]
        common = [name for name in each[0].datasets if all(name in s.datasets for s in each)]
        datasets = {name: mean_metrics([s.datasets[name] for s in each]) for name in common}
        found[trial] = SplitScores(mean_metrics([s.values for s in each]), datasets, sizes=each[0].sizes)
    return found


def queries_table(run: Run, records: list[TrialRecord]) -> pd.DataFrame:
    """Per-query scores of all complete trials that have them. Raises InputError where a file holds something else."""
    import pandas as pd

    parts = [pd.DataFrame(columns=["trial", "split", "dataset", "query_id", *METRICS])]
    for trial in (r.trial for r in records if r.complete):
        for split, name in SPLITS.items():
            part = _read_queries(run.trial_folder(trial) / name)
            if part is not None:
                part.insert(0, "split", split)
                part.insert(0, "trial", trial)
                parts.append(part)
    return pd.concat(parts[1:] or parts, ignore_index=True)


def _read_queries(path: Path) -> pd.DataFrame | None:
    import pandas as pd

    try:
        text = read_bytes(path)
    except FileNotFoundError:
        return None
    try:
        types: Any = {"dataset": str, "query_id": str, **dict.fromkeys(METRICS, float)}
        table = pd.read_csv(io.BytesIO(text), dtype=types, na_filter=False)
        valid = list(table.columns) == list(types) and table[list(METRICS)].apply(lambda c: c.between(0, 1)).all(None)
        valid = valid and not table.duplicated(["dataset", "query_id"]).any()
    except (ValueError, pd.errors.ParserError):
        valid = False
    if not valid:
        raise InputError(
            f"{path} must hold {', '.join(types)} for each query once, the scores from 0 to 1; "
            "the search did not write that: put the file back as it was, or remove it to do without intervals"
        )
    return table


def trials_table(
    records: list[TrialRecord], splits: Splits, scores: pd.DataFrame, order: list[int], goal: Goal
) -> pd.DataFrame:
    """All finished trials by number; scores that are not there are NaN. A trial that was repeated has its means over
    seeds. order: MLPs, the least important first."""
    import pandas as pd

    on_front = {r.trial for r in goal.front(records)}
    feasible = {r.trial for r in goal.feasible(records)}
    means = {r.trial: r for r in pooled(r for r in records if r.complete)}
    repeated, staged = (any(getattr(r.spec, name) for r in records) for name in ("repeat_of", "stage"))
    settings = [n for n in setting_names() if any(n in r.spec.suggested for r in records)]
    datasets = list(dict.fromkeys(name for r in records for name in r.datasets))
    more = _more_measures(records, goal)
    intervals, none = _intervals(scores), {f"{QUALITY}_{name}": NOTHING for name in INTERVAL}
    rows = [
        _row(means.get(r.trial, r), splits, settings, datasets if len(datasets) > 1 else [])
        | {name: r.values.get(name, NOTHING) for name in more}
        | intervals.get(r.trial, none)
        | ({"stage": r.spec.stage, "continues": r.spec.continues} if staged else {})
        | ({"repeat_of": r.spec.repeat_of, "seeds": means.get(r.trial, r).seeds} if repeated else {})
        | ({"feasible": r.trial in feasible} if goal.constraints else {})
        | {"recipe": follows_recipe(r, order), "on_front": r.trial in on_front, "reason": r.reason}
        for r in records
    ]
    # Not float where a trial failed before it had a size: 22713216 is no 22713216.0.
    table = pd.DataFrame(rows)
    columns = {f"{prefix}{name}" for prefix in ("", "test_", "held_out_") for name in COUNTED}
    whole = [SIZE, MEASURES[SIZE].unpruned, BLOCKS, *columns.intersection(table.columns)]
    return table.astype(dict.fromkeys(whole, "Int64"))


def _sizes() -> list[str]:
    """The columns that every table begins with: sizes, their shares, the unpruned model's size."""
    first = [SIZE, SIZE_SHARE, MEASURES[SIZE].unpruned]
    return [*first, *(m.name for m in shown_in(TABLE) if m.known and m.name not in first)]


def _clocks() -> list[str]:
    return [m.name for m in shown_in(TABLE) if m.source == CLOCK]


def _more_measures(records: list[TrialRecord], goal: Goal) -> list[str]:
    """The columns that are not in every table: what the search goes by, and what evaluate/speed.py measured."""
    wanted = {*goal.objectives, *(c.name for c in goal.constraints)}
    always = {*_sizes(), *_clocks(), *METRICS}
    found = [m.name for m in shown_in(TABLE, wanted) if m.name not in always]
    return [n for n in found if n in wanted or any(n in r.values for r in records)]


def follows_recipe(record: TrialRecord, order: list[int]) -> bool:
    """Whether a plan is the paper's: of the MLPs the least important ones go, and nothing else is dropped."""
    gone = record.facts.dropped_mlp
    return bool(gone) and set(gone) == set(order[: len(gone)]) and not record.facts.dropped_attention


def _intervals(scores: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Trial -> the intervals of its mean over data sets, on the search's queries."""
    rows: Any = scores[(scores["split"] == "search") & (scores["dataset"] == MEAN)].to_dict("records")
    return {row["trial"]: {f"{QUALITY}_{name}": row[name] for name in INTERVAL} for row in rows}


def _row(record: TrialRecord, splits: Splits, settings: list[str], datasets: list[str]) -> dict[str, Any]:
    nothing, facts = SplitScores({}, {}), record.facts
    test, held_out = (splits[name].get(record.trial, nothing) for name in ("test", "held_out"))

    def values(of: Values, names: Sequence[str], prefix: str = "") -> dict[str, float]:
        return {f"{prefix}{name}": of.get(name, NOTHING) for name in names}

    row: dict[str, Any] = {"trial": record.trial, "state": record.state}
    row |= values(record.values, [*_sizes(), QUALITY]) | values(test.values, [QUALITY], "test_")
    row |= counts(record.sizes) | counts(test.sizes, "test_")
    for name in datasets:
        row[f"{QUALITY}[{name}]"] = record.datasets.get(name, {}).get(QUALITY, NOTHING)
        row[f"test_{QUALITY}[{name}]"] = test.datasets.get(name, {}).get(QUALITY, NOTHING)
    if splits["held_out"]:
        row |= values(held_out.values, [QUALITY], "held_out_") | counts(held_out.sizes, "held_out_")
    row |= values(record.values, [name for name in METRICS if name != QUALITY])
    row |= {name: ",".join(map(str, getattr(facts, name))) for name in ("dropped_mlp", "dropped_attention")}
    row["width_ratio"] = facts.width_ratio if SIZE in record.values else NOTHING
    row |= {name: record.spec.suggested.get(name) for name in settings}
    return row | values(record.values, _clocks())


def front_of(table: pd.DataFrame, goal: Goal | None = None) -> pd.DataFrame:
    """The rows of a `trials_table` that are on the front, the most expensive first."""
    cost = (goal or Goal()).cost
    rows = table[table["on_front"]].sort_values(cost, ascending=MEASURES[cost].better > 0, kind="stable")
    return rows.drop(columns="on_front").reset_index(drop=True)

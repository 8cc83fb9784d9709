"""A run as pandas data frames: `effir_dist.load_run(path)`. The columns are listed in docs/report.md."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir_dist.core.config import setting_names
from effir_dist.core.errors import InputError
from effir_dist.core.measures import MEASURES, METRICS
from effir_dist.core.storage import read_bytes
from effir_dist.importance.store import drop_order
from effir_dist.report.neighbours import COLUMNS as STEPS
from effir_dist.report.neighbours import steps
from effir_dist.report.score_tables import INTERVAL, MEAN, scores_table
from effir_dist.runs.objectives import Goal
from effir_dist.runs.pareto import complete, unpruned
from effir_dist.runs.record_checks import checked_results, checked_scores
from effir_dist.runs.repeats import groups, pooled
from effir_dist.runs.run_folder import SPLITS, Run

if TYPE_CHECKING:
    import pandas as pd

SPEEDS = ("queries_per_second", "documents_per_second")
MEASURED = (
    *("block_parameters", "index_bytes", "memory_bytes"),
    *("query_latency_ms", "query_speedup", "batch_documents_per_second", "document_speedup"),
)
"""Columns that are there where trials were measured by speed.py, or the search goes by them."""
SECONDS = ("train_seconds", "score_seconds", "other_seconds", "total_seconds")
KNOWN = ("block_parameters", "index_bytes")
"""Of MEASURED, those that every record has."""


@dataclass(frozen=True)
class RunFrames:
    """What a run found, as data frames; docs/report.md lists their columns."""

    trials: pd.DataFrame
    """A row a finished trial, failed ones too, by number."""
    front: pd.DataFrame
    """The rows of `trials` that are on the front, largest first."""
    queries: pd.DataFrame
    """A row a trial, split, data set and query."""
    scores: pd.DataFrame
    """A row a trial, split and data set: nDCG@10 and its difference from the unpruned model, with 95 % intervals."""


def load_run(path: str | Path) -> RunFrames:
    """The frames of the run in a folder (or a bucket), also while it is searched.

    Raises InputError where there is no run, no trial has finished, or a record is not as the search writes it.
    """
    return frames_of(Run.open(path))


def frames_of(run: Run) -> RunFrames:
    """`load_run` of a run that is open."""
    records = checked_results(run)
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


def frames_from(run: Run, records: list[dict[str, Any]]) -> RunFrames:
    """The frames of some of a run's checked records, at least one."""
    search = run.config.get("search") or {}
    goal, chosen = Goal.of(search), search.get("quality_sets") or ()
    queries = queries_table(run, records)
    whole = unpruned(records)
    repeats = {trial: [r["trial"] for r in group] for trial, group in groups(records).items()}
    scores = scores_table(queries, whole["trial"] if whole else None, chosen, repeats)
    tests = {f"{split}_": _pooled(checked_scores(run, split), repeats) for split in ("test", "held_out")}
    trials = trials_table(records, tests, scores, drop_order(run), goal)
    return RunFrames(trials, _stepped(front_of(trials, goal), queries, chosen, repeats), queries, scores)


def _pooled(tests: dict[str, dict[str, Any]], repeats: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Trial -> its scores on other queries, the mean over its seeds where it was repeated."""
    found = dict(tests)
    for trial, members in repeats.items():
        known = [{"trial": t, "state": "complete", **tests[t]} for t in members if t in tests]
        found |= {r["trial"]: r for r in pooled([{**r, "repeat_of": trial} if n else r for n, r in enumerate(known)])}
    return found


def _stepped(front: pd.DataFrame, queries: pd.DataFrame, chosen: Sequence[str], repeats: Any) -> pd.DataFrame:
    """A front with neighbours.COLUMNS; the first row, and rows without per-query scores, have none."""
    found = steps([*front["trial"]], queries, chosen, repeats)
    nothing = (float("nan"), float("nan"), float("nan"), None)
    rows = {t: (i.value, i.low, i.high, not i.is_noise) for t, i in found.items()}
    for place, name in enumerate(STEPS):
        front[name] = [rows.get(trial, nothing)[place] for trial in front["trial"]]
    return front


def queries_table(run: Run, records: list[dict[str, Any]]) -> pd.DataFrame:
    """Per-query scores of all complete trials that have them. Raises InputError where a file holds something else."""
    import pandas as pd

    parts = [pd.DataFrame(columns=["trial", "split", "dataset", "query_id", *METRICS])]
    for trial in (r["trial"] for r in complete(records)):
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
        whole = list(table.columns) == list(types) and table[list(METRICS)].apply(lambda c: c.between(0, 1)).all(None)
        whole = whole and not table.duplicated(["dataset", "query_id"]).any()
    except (ValueError, pd.errors.ParserError):
        whole = False
    if not whole:
        raise InputError(
            f"{path} must hold {', '.join(types)} for each query once, the scores from 0 to 1; "
            "the search did not write that: put the file back as it was, or remove it to do without intervals"
        )
    return table


def trials_table(
    records: list[dict[str, Any]],
    tests: dict[str, dict[str, dict[str, Any]]],
    scores: pd.DataFrame,
    order: list[int],
    goal: Goal,
) -> pd.DataFrame:
    """All finished trials by number; scores that are not there are NaN. A trial that was repeated has its means over
    seeds. tests: prefix of columns -> trial -> scores. order: MLPs, the least important first."""
    import pandas as pd

    on_front = {r["trial"] for r in goal.front(records)}
    satisfying = {r["trial"] for r in goal.satisfying(records)}
    means = {r["trial"]: r for r in pooled(complete(records))}
    wanted = {*goal.objectives, *(c.name for c in goal.constraints)}
    extra = [n for n in MEASURED if n in wanted or (n not in KNOWN and any(n in r for r in records))]
    repeated = any(r.get("repeat_of") for r in records)
    settings = [n for n in setting_names() if any(n in r.get("suggested", {}) for r in records)]
    datasets = list(dict.fromkeys(name for r in records for name in r.get("datasets") or {}))
    intervals, none = _intervals(scores), {f"ndcg_at_10_{name}": float("nan") for name in INTERVAL}
    rows = [
        _row(means.get(r["trial"], r), tests, settings, datasets if len(datasets) > 1 else [])
        | {name: _number(r, name) for name in extra}
        | intervals.get(r["trial"], none)
        | ({"repeat_of": r.get("repeat_of", ""), "seeds": means.get(r["trial"], r).get("seeds", 1)} if repeated else {})
        | ({"satisfies": r["trial"] in satisfying} if goal.constraints else {})
        | {"recipe": follows_recipe(r, order), "on_front": r["trial"] in on_front, "reason": r.get("reason", "")}
        for r in records
    ]
    # Not float where a trial failed before it had a size: 22713216 is no 22713216.0.
    return pd.DataFrame(rows).astype({"parameters": "Int64", "full_parameters": "Int64"})


def follows_recipe(record: dict[str, Any], order: list[int]) -> bool:
    """Whether a plan is the paper's: of the MLPs the least important ones go, and nothing else is dropped."""
    gone = record.get("dropped_mlp") or []
    return bool(gone) and set(gone) == set(order[: len(gone)]) and not record.get("dropped_attention")


def _intervals(scores: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Trial -> the intervals of its mean over data sets, on the search's queries."""
    rows: Any = scores[(scores["split"] == "search") & (scores["dataset"] == MEAN)].to_dict("records")
    return {row["trial"]: {f"ndcg_at_10_{name}": row[name] for name in INTERVAL} for row in rows}


def _row(
    record: dict[str, Any], tests: dict[str, dict[str, dict[str, Any]]], settings: list[str], datasets: list[str]
) -> dict[str, Any]:
    row = {name: record.get(name) for name in ("trial", "state")}
    test, held_out = (tests[prefix].get(record["trial"], {}) for prefix in ("test_", "held_out_"))
    row |= {name: _number(record, name) for name in ("parameters", "parameters_fraction", "full_parameters")}
    row |= {"ndcg_at_10": _number(record, "ndcg_at_10"), "test_ndcg_at_10": _number(test, "ndcg_at_10")}
    for name in datasets:
        for prefix, scores in (("", record), ("test_", test)):
            row[f"{prefix}ndcg_at_10[{name}]"] = _number((scores.get("datasets") or {}).get(name, {}), "ndcg_at_10")
    if tests["held_out_"]:
        row["held_out_ndcg_at_10"] = _number(held_out, "ndcg_at_10")
    row |= {name: _number(record, name) for name in METRICS[1:]}
    row |= {name: ",".join(map(str, record.get(name) or [])) for name in ("dropped_mlp", "dropped_attention")}
    row["width_ratio"] = _number(record, "width_ratio")
    row |= {name: (record.get("suggested") or {}).get(name) for name in settings}
    return row | {name: _number(record, name) for name in (*SPEEDS, *SECONDS)}


def _number(record: Mapping[str, Any], name: str) -> float:
    value = record.get(name)
    return float("nan") if value is None else value


def front_of(table: pd.DataFrame, goal: Goal | None = None) -> pd.DataFrame:
    """The rows of a `trials_table` that are on the front, the dearest first."""
    cost = (goal or Goal()).cost
    rows = table[table["on_front"]].sort_values(cost, ascending=MEASURES[cost].better > 0, kind="stable")
    return rows.drop(columns="on_front").reset_index(drop=True)

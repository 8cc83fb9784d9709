"""What the page shows, as plain data: of one run, or of several as one front with a common reference point."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from effir_dist.core.config import flatten, settings_of
from effir_dist.core.files import now, plain
from effir_dist.core.measures import MEASURES, METRICS
from effir_dist.importance.store import drop_order
from effir_dist.report.frames import MEASURED, SECONDS, SPEEDS, RunFrames
from effir_dist.report.learned import blocks_of, hypervolume_table, seconds_of
from effir_dist.report.neighbours import COLUMNS as STEPS
from effir_dist.report.score_tables import INTERVAL
from effir_dist.report.side_by_side import Loaded, common_trials, same_queries
from effir_dist.runs.objectives import Goal
from effir_dist.runs.pareto import unpruned
from effir_dist.runs.run_folder import Run

COPIED = (
    *("trial", "state", "reason", "parameters", "parameters_fraction", "full_parameters", "width_ratio"),
    *("dropped_mlp", "dropped_attention", "mlp_widths", "peak_memory_bytes", "steps"),
    *(*METRICS, *SPEEDS, *MEASURED, *SECONDS),
    *("full_index_bytes", "full_memory_bytes", "repeat_of"),
)
"""Fields of a record that a trial of the page has as they are."""


def page_data(runs: list[Loaded], live: bool = False) -> dict[str, Any]:
    """All that the page's script reads, as plain JSON data. live: whether the page asks for it again as it changes."""
    goal = runs[0].goal
    scale = goal.scale([r.records for r in runs])
    trials = [trial for number, loaded in enumerate(runs) for trial in _trials(loaded, number)]
    if len(runs) > 1 and trials:
        for trial, on_front in zip(trials, common_trials(runs)["on_front"], strict=True):
            trial["on_front"] = bool(on_front)
    return plain({
        "generated": now(),
        "live": live,
        "objectives": [{"name": name, "text": MEASURES[name].label} for name in goal.objectives],
        "constraints": [constraint.text for constraint in goal.constraints],
        "reference": scale,
        "same_queries": same_queries(runs),
        "hypervolume": goal.volume([goal.point(t, scale) for r in runs for t in r.goal.satisfying(r.records)]),
        "runs": [_run(loaded, scale) for loaded in runs],
        "trials": trials,
    })  # fmt: skip


def _run(loaded: Loaded, scale: dict[str, float]) -> dict[str, Any]:
    run, records, settings = loaded.run, loaded.records, flatten(loaded.run.config)
    whole = unpruned(records)
    hypervolumes = hypervolume_table(records, loaded.goal, scale)
    return {
        "name": loaded.name,
        "folder": str(run.folder),
        "model": model_name(run),
        "data": data_names(run),
        "wanted": settings.get("search.trials"),
        "pending": len(run.pending()),
        "unpruned": whole["trial"] if whole else None,
        "blocks": blocks_of(records),
        "full_width": max((w for r in records for w in r.get("mlp_widths") or []), default=0),
        "drop_order": drop_order(run),
        "hypervolume": hypervolumes[["cost_seconds", "hypervolume"]].to_numpy().tolist(),
        "importances": list(_importances(records, loaded.goal).items()),
        "ended": run.extra.get("ended", ""),
        "command": run.extra.get("command", ""),
    }


def _importances(records: list[dict[str, Any]], goal: Goal) -> dict[str, float]:
    from effir_dist.report.study_db import parameter_importances

    return parameter_importances(records, goal)


def _trials(loaded: Loaded, number: int) -> list[dict[str, Any]]:
    if loaded.frames is None:
        return []
    table: Any = loaded.frames.trials
    scores = _scores(loaded.frames)
    front: Any = loaded.frames.front.to_dict("records")
    steps = {row["trial"]: {name: row[name] for name in STEPS} for row in front}
    found = []
    for record, row in zip(loaded.records, table.to_dict("records"), strict=True):
        trial = record["trial"]
        found.append({
            "id": f"{number}/{trial}",
            "run": number,
            **{name: record.get(name) for name in COPIED},
            **{f"ndcg_at_10_{name}": row[f"ndcg_at_10_{name}"] for name in INTERVAL},
            **{name: row[name] for name in METRICS},
            "test_ndcg_at_10": row["test_ndcg_at_10"],
            "held_out_ndcg_at_10": row.get("held_out_ndcg_at_10"),
            "seeds": row.get("seeds", 1),
            "satisfies": row.get("satisfies", True),
            **steps.get(trial, {}),
            "total_seconds": seconds_of(record),
            "recipe": row["recipe"],
            "on_front": row["on_front"],
            "settings": settings_of(record.get("suggested") or {}),
            "scores": scores.get(trial, []),
            "export": _export(loaded.run, trial) if loaded.run.has_weights(trial) else "",
        })  # fmt: skip
    return found


def _scores(frames: RunFrames) -> dict[str, list[dict[str, Any]]]:
    """Trial -> its rows of `scores`."""
    rows: Any = frames.scores.to_dict("records")
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row.pop("trial"), []).append(row)
    return found


def _export(run: Run, trial: str) -> str:
    """The command that exports a trial's model."""
    words = ("python", "-m", "effir_dist.export", str(run.folder), "--trial", trial, f"{run.name}-{trial}")
    return shlex.join(words)


def model_name(run: Run) -> str:
    """What was pruned, in a word."""
    settings = flatten(run.config)
    path = settings.get("model.path")
    return Path(str(path)).name if path else str(settings.get("model.backbone", run.name))


def data_names(run: Run) -> list[str]:
    """The data sets that a search scores on."""
    paths = flatten(run.config).get("data.paths") or []
    return [Path(str(path)).name for path in (paths if isinstance(paths, list) else [paths])]

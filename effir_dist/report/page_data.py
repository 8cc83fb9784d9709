"""What the page shows, as plain data: of one run, or of several as one front with a common reference point."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from effir_dist.core.config import flatten, settings_of
from effir_dist.core.files import now, plain
from effir_dist.core.measures import (
    BLOCKS,
    BLOCKS_SHARE,
    MEASURES,
    METRICS,
    PAGE,
    QUALITY,
    SIZE,
    SIZE_SHARE,
    TRAIN_SECONDS,
    TRIAL_SECONDS,
    Measure,
    shown_in,
)
from effir_dist.core.values import Json
from effir_dist.importance.store import drop_order
from effir_dist.report.compare import Loaded, common_trials, same_queries
from effir_dist.report.frames import RunFrames
from effir_dist.report.progress import blocks_of, hypervolume_table, scores_without_record, seconds_of
from effir_dist.report.safety_text import safety_lines
from effir_dist.report.score_tables import INTERVAL
from effir_dist.report.scored_on import data_of, left_out, scored_on
from effir_dist.report.significance import COLUMNS as STEPS
from effir_dist.runs.objectives import Goal, compared_with, first_axis
from effir_dist.runs.records import TrialRecord
from effir_dist.runs.run_folder import Run
from effir_dist.runs.stages import stage_text
from effir_dist.runs.tries import not_the_trials_fault

ROLES = {
    "quality": QUALITY,
    "size": SIZE,
    "share": SIZE_SHARE,
    "blocks": BLOCKS,
    "block_share": BLOCKS_SHARE,
    "training": TRAIN_SECONDS,
    "total": TRIAL_SECONDS,
}
"""What the page's scripts call the measures that have a place of their own; they know no other by name."""
FACTS = ("dropped_mlp", "dropped_attention", "mlp_widths", "dimension", "other_operations")


def page_data(runs: list[Loaded], live: bool = False) -> Json:
    """All that the page's scripts read, as plain JSON data. live: whether the page asks for it again as it changes."""
    goal = runs[0].goal
    scale = goal.scale([r.records for r in runs])
    trials = [trial for number, loaded in enumerate(runs) for trial in _trials(loaded, number)]
    if len(runs) > 1 and trials:
        for trial, on_front in zip(trials, common_trials(runs)["on_front"], strict=True):
            trial["on_front"] = bool(on_front)
    points = [goal.point(t.values, scale) for r in runs for t in r.goal.standing(r.records)]
    return plain({
        "generated": now(),
        "live": live,
        "roles": ROLES,
        "measures": _measures([r for loaded in runs for r in loaded.records], goal),
        "objectives": goal.objectives,
        "axis": first_axis(goal, (r.values for loaded in runs for r in goal.scored(loaded.records))),
        "constraints": [constraint.text for constraint in goal.constraints],
        "reference": scale,
        "same_queries": same_queries(runs),
        "hypervolume": goal.hypervolume_of(points),
        "runs": [_run(loaded, scale) for loaded in runs],
        "trials": trials,
    })  # fmt: skip


def _measures(records: list[TrialRecord], goal: Goal) -> list[Json]:
    """The entries of core/measures.py that records have, as the page's scripts take them."""
    wanted = {*goal.objectives, *(c.name for c in goal.constraints)}
    columns = {entry.name for entry in shown_in(PAGE, wanted)}
    found = [m for m in MEASURES.values() if m.name in ROLES.values() or any(m.name in r.values for r in records)]
    return [_measure(entry, records) | {"column": entry.name in columns} for entry in found]


def _measure(entry: Measure, records: list[TrialRecord]) -> Json:
    fields = (entry.name, entry.unpruned)
    largest = max((r.values[name] for r in records for name in fields if name in r.values), default=0.0)
    copied = ("name", "label", "source", "better", "short", "note", "quality")
    return {
        **{name: getattr(entry, name) for name in copied},
        "head": entry.head or entry.label,
        "unit": {k: v for k, v in vars(entry.unit).items() if k != "axis"},
        "axis": {"title": entry.axis_title(largest), "size": entry.unit.axis_unit(largest)[1]},
    }


def _run(loaded: Loaded, scale: dict[str, float]) -> Json:
    from effir_dist.report.study_db import parameter_importances  # optuna takes a second

    run, records, settings = loaded.run, loaded.records, flatten(loaded.run.config)
    baseline = compared_with(records)
    hypervolumes, pending = hypervolume_table(records, loaded.goal, scale, scores_without_record(run)), run.pending()
    return {
        "name": loaded.name,
        "folder": str(run.folder),
        "model": model_name(run),
        "data": data_of(run),
        "scored_on": scored_on(run, records),
        "left_out": left_out(run),
        "wanted": settings.get("search.trials"),
        "pending": sum(not run.reached(spec) for spec in pending),
        "screened": sum(run.reached(spec) for spec in pending),
        "unpruned": baseline.trial if baseline else None,
        "blocks": blocks_of(records),
        "full_width": max((w for r in records for w in r.facts.mlp_widths), default=0),
        "drop_order": drop_order(run),
        "hypervolume": hypervolumes[["cost_seconds", "hypervolume"]].to_numpy().tolist(),
        "importances": list(parameter_importances(records, loaded.goal).items()),
        "safety": _safety(loaded),
        "ended": run.extra.get("ended", ""),
        "faults": not_the_trials_fault(run),
        "command": run.extra.get("command", ""),
    }


def _safety(loaded: Loaded) -> Json:
    """Which models are safe, in numbers and in words."""
    if loaded.frames is None:
        return {"smallest": "", "reference": "", "split": "", "judged": {}, "short": "", "text": ""}
    safety, lines = loaded.frames.safety, safety_lines(loaded.frames.safety, loaded.frames.front)
    judged = {trial: {**vars(found), "safe": safety.safe(trial)} for trial, found in safety.judged.items()}
    own = {name: getattr(safety, name) for name in ("smallest", "reference", "split")}
    return {**own, "judged": judged, "short": lines[0], "text": " ".join(lines)}


def _trials(loaded: Loaded, number: int) -> list[Json]:
    if loaded.frames is None:
        return []
    rows: Any = loaded.frames.trials.to_dict("records")
    scores = _scores(loaded.frames)
    front: Any = loaded.frames.front.to_dict("records")
    steps = {row["trial"]: {name: row[name] for name in STEPS} for row in front}
    standing = {r.trial for r in loaded.goal.standing(loaded.records)}
    full_dimension = max((r.facts.dimension for r in loaded.records), default=0)
    return [
        {
            "id": f"{number}/{record.trial}",
            "run": number,
            **_record(record),
            **_row(row),
            **steps.get(record.trial, {}),
            "values": {
                **{name: record.value(name) for name in MEASURES},
                **{name: row[name] for name in METRICS},
                TRIAL_SECONDS: seconds_of(record),
            },
            "stands": record.trial in standing,
            "full_dimension": full_dimension,
            "scores": scores.get(record.trial, []),
            "export": _export(loaded.run, record.trial) if loaded.run.has_weights(record.trial) else "",
        }
        for record, row in zip(loaded.records, rows, strict=True)
    ]


def _record(record: TrialRecord) -> Json:
    return {
        **{name: getattr(record, name) for name in ("trial", "state", "reason", "steps")},
        **{name: getattr(record.facts, name) for name in FACTS},
        "width_ratio": record.facts.width_ratio if SIZE in record.values else None,
        "repeat_of": record.spec.repeat_of,
        "stage": stage_text(record.spec.stage, record.spec.continues),
        "settings": settings_of(record.spec.suggested),
    }


def _row(row: Json) -> Json:
    """What the page takes from a row of the table of trials, where means over seeds and intervals are."""
    return {
        "quality": {
            **{name: row[f"{QUALITY}_{name}"] for name in INTERVAL},
            **{split: row.get(f"{split}_{QUALITY}") for split in ("test", "held_out")},
            **{name: row.get(name, "") for name in ("test_failed", "held_out_failed")},
        },
        "seeds": row.get("seeds", 1),
        "feasible": row.get("feasible", True),
        **{name: row[name] for name in ("recipe", "on_front")},
    }


def _scores(frames: RunFrames) -> dict[str, list[Json]]:
    """Trial -> its rows of `scores`, the mean as `value`."""
    rows: Any = frames.scores.rename(columns={QUALITY: "value"}).to_dict("records")
    found: dict[str, list[Json]] = {}
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

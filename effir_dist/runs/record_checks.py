"""Records as a report reads them: each field is what the search would have written, or one sentence says which is not.

A record is plain JSON in a folder that may come from anybody. The search writes records whole and right; what does not
fit was edited by hand, and numbers made of it would be wrong without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from effir_dist.core.errors import InputError
from effir_dist.core.measures import METRICS
from effir_dist.runs.run_folder import Run

Check = tuple[Callable[[Any], bool], str]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _share(value: Any) -> bool:
    return _number(value) and value <= 1


def _metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(v is None or _share(v) for v in value.values())


WHOLE: Check = (lambda value: _whole(value) and value > 0, "a whole number above 0")
NUMBER: Check = (_number, "a number, 0 or more")
SHARE: Check = (_share, "a number from 0 to 1")
BLOCKS: Check = (lambda value: isinstance(value, list) and all(map(_whole, value)), "a list of whole numbers")
TEXT: Check = (lambda value: isinstance(value, str), "text")
OBJECT: Check = (lambda value: isinstance(value, dict), "an object")
DATASETS: Check = (
    lambda value: isinstance(value, dict) and all(map(_metrics, value.values())),
    "an object of data sets, each with metrics from 0 to 1",
)
SCORES: dict[str, Check] = {**dict.fromkeys(METRICS, SHARE), "datasets": DATASETS}
FIELDS: dict[str, Check] = {
    "state": (lambda value: value in ("complete", "failed"), "'complete' or 'failed'"),
    "reason": TEXT,
    **dict.fromkeys(("started", "finished"), TEXT),
    **dict.fromkeys(("parameters", "full_parameters"), WHOLE),
    **dict.fromkeys(("parameters_fraction", "width_ratio"), SHARE),
    **dict.fromkeys(("dropped_mlp", "dropped_attention", "mlp_widths"), BLOCKS),
    **dict.fromkeys(("suggested", "distributions", "attributes"), OBJECT),
    **SCORES,
    "repeat_of": TEXT,
    **dict.fromkeys(("block_parameters", "full_block_parameters", "index_bytes", "full_index_bytes"), WHOLE),
    **dict.fromkeys(("memory_bytes", "full_memory_bytes", "query_latency_ms", "query_speedup"), NUMBER),
    **dict.fromkeys(("batch_documents_per_second", "document_speedup", "gpus"), NUMBER),
    **dict.fromkeys(("queries_per_second", "documents_per_second"), NUMBER),
    **dict.fromkeys(("train_seconds", "score_seconds", "other_seconds", "total_seconds", "peak_memory_bytes"), NUMBER),
}
"""Field -> what it must be where it is there and not null."""
NEEDED = {"complete": ("parameters", "full_parameters", "parameters_fraction", "width_ratio", "ndcg_at_10")}
"""What a record of a state cannot do without."""


def checked_results(run: Run) -> list[dict[str, Any]]:
    """The records of all finished trials, by number. Raises InputError for one that the search cannot have written,
    and as `Run.results` does."""
    return [_checked(run, trial, "result.json", run.result(trial)) for trial in run.trials() if run.finished(trial)]


def checked_scores(run: Run, split: str) -> dict[str, dict[str, Any]]:
    """Trial -> its scores on other queries, `test` or `held_out`, of the trials that have them. Raises InputError
    likewise."""
    found = run.tests() if split == "test" else run.held_out()
    return {trial: _check(record, SCORES, _path(run, trial, f"{split}.json")) for trial, record in found.items()}


def _checked(run: Run, trial: str, name: str, record: dict[str, Any]) -> dict[str, Any]:
    path = _path(run, trial, name)
    _require("trial", record.get("trial"), (lambda value: value == trial, f"{trial!r}, its folder's name"), path)
    _require("state", record.get("state"), FIELDS["state"], path)
    for field in NEEDED.get(record["state"], ()):
        _require(field, record.get(field), FIELDS[field], path)
    return _check(record, FIELDS, path)


def _check(record: dict[str, Any], fields: dict[str, Check], path: str) -> dict[str, Any]:
    for field, check in fields.items():
        if record.get(field) is not None:
            _require(field, record[field], check, path)
    return record


def _path(run: Run, trial: str, name: str) -> str:
    return f"{run.trial_folder(trial) / name}"


def _require(field: str, value: Any, check: Check, path: str) -> None:
    holds, expected = check
    if not holds(value):
        raise InputError(
            f"{path}: {field} must be {expected}, got {str(value)[:80]!r}; "
            "the search did not write that: put the file back as it was, or remove it and --resume runs its trial again"
        )

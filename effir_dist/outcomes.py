"""What the driver knows of trials without torch: facts that follow from a plan, failures, the search's scores."""

from __future__ import annotations

import datetime
import io
import socket
from typing import Any

import numpy as np

from effir_dist.backbones import ModelDict, family, mlp_width
from effir_dist.errors import InputError
from effir_dist.files import read_json
from effir_dist.places import exists, read_bytes
from effir_dist.pruning import PruningPlan, count_parameters, mlp_widths
from effir_dist.ranking import KINDS, Importance
from effir_dist.records import Run

WORK_FILE = "work.json"
"""In `scores/`: what training and scoring take, in tokens that pass the model."""

BYTES_A_NUMBER = 4
"""Of a vector in an exact index: float32, as scoring searches it."""


def plan_facts(model_config: ModelDict, head: dict[str, Any], dimension: int = 0) -> dict[str, Any]:
    """The part of a record that follows from what was suggested (`study.Suggestion.to_dict`) and the model alone.

    dimension: the run's `model.dimension`, for trials that did not vary it.
    """
    plan = PruningPlan.from_dict(head["plan"])
    hidden, rest = int(model_config["hidden_size"]), family(model_config).other_parameters(model_config)
    kept = min(int(head["suggested"].get("model.dimension", dimension)) or hidden, hidden)
    full, left = count_parameters(model_config), count_parameters(model_config, plan)
    staying = [width for width in mlp_widths(model_config, plan) if width]
    return {
        "dropped_mlp": list(plan.dropped_mlp),
        "dropped_attention": list(plan.dropped_attention),
        "mlp_widths": mlp_widths(model_config, plan),
        "width_ratio": round(sum(staying) / (len(staying) * mlp_width(model_config)), 4) if staying else 1.0,
        "parameters": left,
        "parameters_fraction": left / full,
        "full_parameters": full,
        "block_parameters": left - rest,
        "full_block_parameters": full - rest,
        "dimension": kept,
        "index_bytes": BYTES_A_NUMBER * kept,
        "full_index_bytes": BYTES_A_NUMBER * hidden,
    }


def failed_record(
    model_config: ModelDict, head: dict[str, Any], reason: str, started: str, dimension: int = 0
) -> dict[str, Any]:
    """The record of a trial that ended without a score. started: ISO time. dimension: as for `plan_facts`."""
    facts = plan_facts(model_config, head, dimension)
    ended = {"started": started, "finished": now(), "host": socket.gethostname()}
    return {**head, "state": "failed", "reason": reason, **facts, **ended}


def has_scores(run: Run) -> bool:
    """Whether this run's layers and neurons are scored: importance is written last."""
    return exists(run.scores_folder / "importance.json")


def load_importance(run: Run) -> Importance:
    """Importance of the sub-layers. Raises InputError where the file holds something else."""
    path = run.scores_folder / "importance.json"
    tree = read_json(path)
    try:
        scores = {kind: tuple(float("nan") if v is None else float(v) for v in tree[kind]) for kind in KINDS}
        orders = {kind: tuple(map(int, order)) for kind, order in tree.get("orders", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} holds no importance scores ({error!r}); remove it, and --resume makes it") from None
    return Importance(**scores, orders=orders)


def load_scores(run: Run) -> tuple[Importance, dict[str, np.ndarray]]:
    """Importance of the sub-layers, and [L, F] scores of the neurons for each ranking."""
    importance = load_importance(run)
    with np.load(io.BytesIO(read_bytes(run.scores_folder / "neurons.npz"))) as arrays:
        return importance, {name: arrays[name] for name in arrays.files}


def load_work(run: Run) -> dict[str, float]:
    """`train`, `score`, `low`: tokens (`scores.count_work`); usual proportions for a run of an older version."""
    path = run.scores_folder / WORK_FILE
    return {"train": 0.85, "score": 0.15, "low": 0.05, **(read_json(path) if exists(path) else {})}


def drop_order(run: Run) -> list[int]:
    """Blocks by rising importance of their MLP; empty where the run has no scores yet."""
    return load_importance(run).drop_order("mlp") if has_scores(run) else []


def now() -> str:
    """ISO time, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")

"""What the driver knows of trials without torch: facts that follow from a plan, failures, the search's scores."""

from __future__ import annotations

import datetime
import socket
from typing import Any

import numpy as np

from effir_dist.backbones import ModelDict, mlp_width
from effir_dist.pruning import PruningPlan, count_parameters, mlp_widths
from effir_dist.ranking import Importance
from effir_dist.records import Run, read_json


def plan_facts(model_config: ModelDict, head: dict[str, Any]) -> dict[str, Any]:
    """The part of a record that follows from what was suggested (`study.Suggestion.to_dict`) and the model alone."""
    plan = PruningPlan.from_dict(head["plan"])
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
    }


def failed_record(model_config: ModelDict, head: dict[str, Any], reason: str, started: str) -> dict[str, Any]:
    """The record of a trial that ended without a score. started: ISO time."""
    facts = plan_facts(model_config, head)
    ended = {"started": started, "finished": now(), "host": socket.gethostname()}
    return {**head, "state": "failed", "reason": reason, **facts, **ended}


def has_scores(run: Run) -> bool:
    """Whether this run's layers and neurons are scored: importance is written last."""
    return (run.scores_folder / "importance.json").is_file()


def load_scores(run: Run) -> tuple[Importance, dict[str, np.ndarray]]:
    """Importance of the sub-layers, and [L, F] scores of the neurons for each ranking."""
    tree = read_json(run.scores_folder / "importance.json")
    with np.load(run.scores_folder / "neurons.npz") as arrays:
        neurons = {name: arrays[name] for name in arrays.files}
    return Importance(tuple(tree["mlp"]), tuple(tree["attention"]), tuple(tree["block"])), neurons


def now() -> str:
    """ISO time, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")

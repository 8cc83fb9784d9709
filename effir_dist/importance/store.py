"""Importance and neuron scores of a search, as its run folder keeps them."""

from __future__ import annotations

import io

import numpy as np

from effir_dist.core.errors import InputError
from effir_dist.core.files import read_json
from effir_dist.core.storage import exists, read_bytes
from effir_dist.importance.ranking import KINDS, Importance
from effir_dist.runs.run_folder import Run

WORK_FILE = "work.json"
"""In `scores/`: what training and scoring take, in tokens that pass the model."""


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

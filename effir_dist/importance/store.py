"""Importance of sub-layers and saliency of neurons, as a run's folder keeps them."""

from __future__ import annotations

import io

import numpy as np

from effir_dist.core.errors import InputError
from effir_dist.core.files import read_json
from effir_dist.core.storage import exists, read_bytes
from effir_dist.importance.ranking import KINDS, Importance
from effir_dist.runs.run_folder import Run

IMPORTANCE_FILE, SALIENCY_FILE = "importance.json", "neurons.npz"
"""In `Run.importance_folder`."""
WORK_FILE = "work.json"
"""Beside them: tokens that pass the model in training and in evaluation."""
TEACHER = ("teacher_queries.npy", "teacher_passages.npy")
"""Embeddings of the training texts by who teaches the trials."""
OUTSIDE = ("outside_queries.npy", "outside_passages.npy")
"""The same by `train.teacher` where that teaches the base, and the base the trials."""


def has_outside(run: Run) -> bool:
    """Whether the base's teacher has told all that it is asked."""
    return all(exists(run.importance_folder / name) for name in OUTSIDE)


def has_importance(run: Run) -> bool:
    """Whether this run's sub-layers and neurons are ranked. The file of the sub-layers is written last."""
    return exists(run.importance_folder / IMPORTANCE_FILE)


def load_importance(run: Run) -> Importance:
    """Importance of the sub-layers. Raises InputError where the file holds something else."""
    path = run.importance_folder / IMPORTANCE_FILE
    tree = read_json(path)
    try:
        values = {kind: tuple(float("nan") if v is None else float(v) for v in tree[kind]) for kind in KINDS}
        orders = {kind: tuple(map(int, order)) for kind, order in tree.get("orders", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} holds no importance of layers ({error!r}); remove it and use --resume") from None
    return Importance(**values, orders=orders)


def load_saliency(run: Run) -> dict[str, np.ndarray]:
    """Ranking -> [L, F] saliency of the neurons."""
    with np.load(io.BytesIO(read_bytes(run.importance_folder / SALIENCY_FILE))) as arrays:
        return {name: arrays[name] for name in arrays.files}


def load_work(run: Run) -> dict[str, float]:
    """`train`, `score`, `low`, `reconstruct`, `fit` or `fit_dual`: tokens (`preparation.count_work`). A run of an older
    version gets usual proportions, and none of what fitting takes."""
    path = run.importance_folder / WORK_FILE
    return {"train": 0.85, "score": 0.15, "low": 0.05, **(read_json(path) if exists(path) else {})}


def drop_order(run: Run) -> list[int]:
    """Blocks by rising importance of their MLP; empty where the run has none yet."""
    return load_importance(run).drop_order("mlp") if has_importance(run) else []

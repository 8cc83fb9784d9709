"""Runs made of records alone, through records.py, as a search leaves them: for reports, of any number of trials."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from effir_dist.core import config, files
from effir_dist.core.measures import METRICS
from effir_dist.runs.run_folder import Run, write_queries

HIDDEN, WIDTH, EMBEDDINGS = 384, 1536, 12_000_000


def synthetic_run(
    folder: Path,
    count: int,
    *,
    blocks: int = 12,
    queries: int = 40,
    datasets: tuple[str, ...] = ("scifact", "fiqa"),
    failed: tuple[int, ...] = (),
    seed: int = 0,
    paths: tuple[str, ...] | None = None,
    search: dict[str, Any] | None = None,
) -> Run:
    """A run of `count` finished trials: the unpruned model, EffiR's recipe in five steps, then random plans.

    Quality falls with what is dropped, by its importance, and differs from query to query as real scores do. The
    trials on the front have test scores and (empty) weights; those of `failed` have a reason instead of scores.
    search: settings of the run, such as other objectives; vectors are then truncated in two trials of three.
    """
    rng = np.random.default_rng(seed)
    importance = rng.permutation(np.linspace(0.02, 0.5, blocks))
    settings = config.replace(
        config.RunConfig(), {"search.trials": count, "data.paths": paths or datasets, **(search or {})}
    )
    run = Run.create(folder, config.to_dict(settings), {"command": f"synthetic {count}"})
    importances = dict.fromkeys(("mlp", "attention", "block"), importance.tolist())
    files.write_json_atomic(run.importance_folder / "importance.json", importances)
    packed = io.BytesIO()
    np.savez(packed, activation=rng.random((blocks, WIDTH)))
    files.write_bytes_atomic(run.importance_folder / "neurons.npz", packed.getvalue())
    hardness = {name: rng.beta(2, 1.4, queries) for name in datasets}
    order = list(np.argsort(importance))
    for number in range(count):
        dropped, ratio = plan(number, blocks, order, rng)
        record = facts(number, blocks, dropped, ratio)
        if search:
            record["index_bytes"] = record["full_index_bytes"] // (1 + number % 3)
        if number in failed:
            write_failed(run, record)
            continue
        lost = 0.7 * importance[dropped].sum() / importance.sum() + 0.12 * (1 - ratio) ** 1.5
        scores = {name: sample(hard, lost, rng) for name, hard in hardness.items()}
        write_complete(run, record, scores, rng, bool(search))
    write_tests(run, hardness, rng)
    return run


def plan(number: int, blocks: int, order: list[int], rng: np.random.Generator) -> tuple[list[int], float]:
    """The MLPs that a trial drops, and the width of the others."""
    if number <= 5:
        return sorted(int(block) for block in order[: number * blocks // 10]), 1.0
    gone = rng.random(blocks) < rng.uniform(0, 0.6)
    return [int(block) for block in np.flatnonzero(gone)][: blocks - 2], float(rng.integers(4, 11)) / 10


def facts(number: int, blocks: int, dropped: list[int], ratio: float) -> dict[str, Any]:
    """The part of a record that follows from its plan."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

    widths = [0 if block in dropped else round(WIDTH * ratio) for block in range(blocks)]
    full = EMBEDDINGS + blocks * (4 * HIDDEN**2 + 2 * HIDDEN * WIDTH)
    parameters = EMBEDDINGS + blocks * 4 * HIDDEN**2 + 2 * HIDDEN * sum(widths)
    rate = [1e-4, 2e-4][number % 2]
    suggested = {**{f"drop_mlp.{b}": b in dropped for b in range(blocks)}, "width_ratio": ratio}
    distributions = {f"drop_mlp.{b}": CategoricalDistribution([False, True]) for b in range(blocks)}
    distributions |= {"width_ratio": FloatDistribution(0.4, 1.0, step=0.1)}
    distributions |= {"train.learning_rate": CategoricalDistribution([1e-4, 2e-4])}
    return {
        "trial": f"{number:04d}", "number": number, "suggested": {**suggested, "train.learning_rate": rate},
        "distributions": {name: distribution_to_json(d) for name, d in distributions.items()}, "attributes": {},
        "key": f"{number:016x}", "dropped_mlp": dropped, "dropped_attention": [], "mlp_widths": widths,
        "plan": {"dropped_mlp": dropped, "dropped_attention": [], "widths": {}, "ranking": ""},
        "width_ratio": ratio, "parameters": parameters, "full_parameters": full,
        "parameters_fraction": parameters / full, "host": "node-1",
        "block_parameters": parameters - EMBEDDINGS, "full_block_parameters": full - EMBEDDINGS,
        "index_bytes": 4 * HIDDEN, "full_index_bytes": 4 * HIDDEN,
        "started": f"2026-11-01T{number // 60 % 24:02d}:{number % 60:02d}:00.000+00:00",
        "finished": f"2026-11-01T{number // 60 % 24:02d}:{number % 60:02d}:48.000+00:00",
    }  # fmt: skip


def sample(hard: np.ndarray, lost: float, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Query id -> metrics of one trial; `hard` [Q] is what the queries' scores have in common over trials."""
    values = np.clip(hard * (1 - lost) + rng.normal(0, 0.06, len(hard)), 0, 1)
    return {f"q{i}": dict(zip(METRICS, (float(v), float(v**0.5), float(v)), strict=True)) for i, v in enumerate(values)}


def means(scores: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Means over queries of each data set, and over data sets."""
    datasets = {name: {m: float(np.mean([q[m] for q in s.values()])) for m in METRICS} for name, s in scores.items()}
    return {**{m: float(np.mean([d[m] for d in datasets.values()])) for m in METRICS}, "datasets": datasets}


def write_complete(
    run: Run, record: dict[str, Any], scores: dict[str, Any], rng: np.random.Generator, measured: bool = False
) -> None:
    """The record and the per-query scores of a trial that ended well."""
    speed = float(900 / record["parameters_fraction"] * rng.normal(1, 0.03))
    costs = {"train_seconds": 30 * record["parameters_fraction"], "score_seconds": 8.0, "other_seconds": 2.0}
    write_queries(run.queries_path(record["trial"]), scores)
    run.write_result(record["trial"], {
        **record, "state": "complete", "reason": "", **means(scores), **costs, "total_seconds": sum(costs.values()),
        **({"document_speedup": 1 / record["parameters_fraction"]} if measured else {}),
        "documents_per_second": speed, "queries_per_second": 4 * speed, "peak_memory_bytes": 2 * 2**30, "steps": 20,
    })  # fmt: skip


def write_failed(run: Run, record: dict[str, Any]) -> None:
    """The record of a trial that failed after its plan was made."""
    reason = "out of memory at a peak of 22.4 GiB: CUDA out of memory. Tried to allocate 1.50 GiB"
    run.write_result(record["trial"], {**record, "state": "failed", "reason": reason})


def write_tests(run: Run, hardness: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Test scores and weights of the trials on the front."""
    from effir_dist.runs.objectives import Goal

    for record in Goal.of(run.config["search"]).front(run.results()):
        (run.trial_folder(record["trial"]) / "model.safetensors").write_bytes(b"")
        scores = {n: sample(h, 0.6 * (1 - record["parameters_fraction"]) ** 2, rng) for n, h in hardness.items()}
        write_queries(run.queries_path(record["trial"], "test"), scores)
        run.write_test(record["trial"], {**means(scores), "score_seconds": 8.0})

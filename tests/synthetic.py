"""Records, and runs made of records alone, as a search leaves them: for reports, of any number of trials."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from effir_dist.core import config, files
from effir_dist.core.measures import METRICS
from effir_dist.models.facts import PlanFacts
from effir_dist.models.pruning import PruningPlan
from effir_dist.runs.objectives import goal_of
from effir_dist.runs.records import SplitScores, TrialRecord, TrialSpec
from effir_dist.runs.run_folder import Run, write_queries
from effir_dist.runs.sizes import SetSize

HIDDEN, WIDTH, EMBEDDINGS = 384, 1536, 12_000_000
FULL = 22_713_216
"""Parameters of the unpruned model of `record`."""
OUT_OF_MEMORY = "out of memory at a peak of 22.4 GiB: CUDA out of memory. Tried to allocate 1.50 GiB"


def spec(number: int, dropped: Sequence[int] = (), **more: Any) -> TrialSpec:
    """What a trial tries. more: any field of TrialSpec."""
    own: dict[str, Any] = {"suggested": {}, "distributions": {}, "plan": PruningPlan(dropped_mlp=tuple(dropped))}
    return TrialSpec(number, **{**own, **more})


def record(
    number: int,
    quality: float | None,
    size: int = FULL,
    dropped: Sequence[int] = (),
    *,
    full: int = FULL,
    width: float = 1.0,
    values: Mapping[str, float] | None = None,
    datasets: Mapping[str, Mapping[str, float]] | None = None,
    reason: str = "",
    finished: str = "",
    **more: Any,
) -> TrialRecord:
    """A record of a trial of 40 s with this nDCG@10; one that failed where it is None. more: fields of its spec."""
    found = {"parameters": size, "full_parameters": full, "parameters_fraction": size / full}
    scores = {} if quality is None else dict.fromkeys(METRICS, quality)
    seconds = {"train_seconds": 30.0, "score_seconds": 8.0, "total_seconds": 40.0}
    return TrialRecord(
        spec(number, dropped, **more),
        "failed" if quality is None else "complete",
        reason=reason,
        facts=PlanFacts(dropped_mlp=tuple(dropped), width_ratio=width),
        values={**found, **scores, **seconds, **(values or {})},
        datasets={"pydocs": scores} if datasets is None else datasets,
        finished=finished,
    )


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
    more: Callable[[float], dict[str, float]] = lambda share: {},
) -> Run:
    """A run of `count` finished trials: the unpruned model, EffiR's recipe in five steps, then random plans.

    Quality falls with what is dropped, by its importance, and differs from query to query as real scores do. The
    trials on the front, and the best unpruned one, have test scores and (empty) weights; those of `failed` have a
    reason instead of scores.
    search: settings of the run, such as other objectives; vectors are then truncated in two trials of three.
    more: share of the parameters -> other measures of a trial.
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
        started = planned(number, blocks, dropped, ratio, cut=1 + number % 3 if search else 1)
        if number in failed:
            run.write_result(replace(started, state="failed", reason=OUT_OF_MEMORY))
            continue
        lost = 0.7 * importance[dropped].sum() / importance.sum() + 0.12 * (1 - ratio) ** 1.5
        scores = {name: sample(hard, lost, rng) for name, hard in hardness.items()}
        write_complete(run, started, scores, rng, {**measured(started, bool(search)), **more(share_of(started))})
    write_tests(run, hardness, rng)
    return run


def plan(number: int, blocks: int, order: list[int], rng: np.random.Generator) -> tuple[list[int], float]:
    """The MLPs that a trial drops, and the width of the others."""
    if number <= 5:
        return sorted(int(block) for block in order[: number * blocks // 10]), 1.0
    gone = rng.random(blocks) < rng.uniform(0, 0.6)
    return [int(block) for block in np.flatnonzero(gone)][: blocks - 2], float(rng.integers(4, 11)) / 10


def planned(number: int, blocks: int, dropped: list[int], ratio: float, cut: int = 1) -> TrialRecord:
    """The part of a record that follows from its plan. cut: an embedding keeps 1 / cut of its dimensions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

    widths = [0 if block in dropped else round(WIDTH * ratio) for block in range(blocks)]
    full = EMBEDDINGS + blocks * (4 * HIDDEN**2 + 2 * HIDDEN * WIDTH)
    size = EMBEDDINGS + blocks * 4 * HIDDEN**2 + 2 * HIDDEN * sum(widths)
    suggested = {**{f"drop_mlp.{b}": b in dropped for b in range(blocks)}, "width_ratio": ratio}
    distributions = {f"drop_mlp.{b}": CategoricalDistribution([False, True]) for b in range(blocks)}
    distributions |= {"width_ratio": FloatDistribution(0.4, 1.0, step=0.1)}
    distributions |= {"train.learning_rate": CategoricalDistribution([1e-4, 2e-4])}
    return TrialRecord(
        spec(
            number,
            dropped,
            suggested={**suggested, "train.learning_rate": [1e-4, 2e-4][number % 2]},
            distributions={name: distribution_to_json(d) for name, d in distributions.items()},
        ),
        "complete",
        facts=PlanFacts(tuple(dropped), (), tuple(widths), ratio, HIDDEN // cut),
        values={
            "parameters": size, "full_parameters": full, "parameters_fraction": size / full,
            "block_parameters": size - EMBEDDINGS, "full_block_parameters": full - EMBEDDINGS,
            "index_bytes": 4 * HIDDEN // cut, "full_index_bytes": 4 * HIDDEN,
        },
        host="node-1",
        started=f"2026-11-01T{number // 60 % 24:02d}:{number % 60:02d}:00.000+00:00",
        finished=f"2026-11-01T{number // 60 % 24:02d}:{number % 60:02d}:48.000+00:00",
    )  # fmt: skip


def share_of(found: TrialRecord) -> float:
    """Of the parameters."""
    return found.values["parameters_fraction"]


def measured(found: TrialRecord, speed: bool) -> dict[str, float]:
    """What evaluate/speed.py measures, where it does."""
    return {"document_speedup": 1 / share_of(found)} if speed else {}


def sample(hard: np.ndarray, lost: float, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Query id -> metrics of one trial; `hard` [Q] is what the queries' scores have in common over trials."""
    values = np.clip(hard * (1 - lost) + rng.normal(0, 0.06, len(hard)), 0, 1)
    return {f"q{i}": dict(zip(METRICS, (float(v), float(v**0.5), float(v)), strict=True)) for i, v in enumerate(values)}


def means(scores: dict[str, dict[str, dict[str, float]]]) -> SplitScores:
    """Means over queries of each data set, and over data sets."""
    datasets = {name: {m: float(np.mean([q[m] for q in s.values()])) for m in METRICS} for name, s in scores.items()}
    values = {m: float(np.mean([d[m] for d in datasets.values()])) for m in METRICS}
    sizes = {name: SetSize(len(queries), 1000, len(queries), 5000) for name, queries in scores.items()}
    return SplitScores(values, datasets, score_seconds=8.0, sizes=sizes)


def write_complete(
    run: Run, started: TrialRecord, scores: dict[str, Any], rng: np.random.Generator, more: Mapping[str, float]
) -> None:
    """The record and the per-query scores of a trial that ended well."""
    speed = float(900 / share_of(started) * rng.normal(1, 0.03))
    costs = {"train_seconds": 30 * share_of(started), "score_seconds": 8.0, "other_seconds": 2.0}
    costs |= {"total_seconds": sum(costs.values()), "peak_memory_bytes": 2 * 2**30}
    speeds = {"documents_per_second": speed, "queries_per_second": 4 * speed}
    found = means(scores)
    write_queries(run.queries_path(started.trial), scores)
    values = {**started.values, **found.values, **costs, **speeds, **more}
    run.write_result(replace(started, values=values, datasets=found.datasets, sizes=found.sizes, steps=20))


def write_tests(run: Run, hardness: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Test scores and weights of the trials that a search keeps: the front, and an unpruned model."""
    records = run.results()
    for found in [r for r in records if r.trial in goal_of(run.config).kept(records)]:
        (run.trial_folder(found.trial) / "model.safetensors").write_bytes(b"")
        scores = {n: sample(h, 0.6 * (1 - share_of(found)) ** 2, rng) for n, h in hardness.items()}
        write_queries(run.queries_path(found.trial, "test"), scores)
        run.write_split_scores(found.trial, "test", means(scores))

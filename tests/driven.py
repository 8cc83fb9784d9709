"""Searches by the real driver, without Ray: one trial at a time, each of which is a formula."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from rich.console import Console

from effir_dist.core import config as config_module
from effir_dist.core.files import write_bytes_atomic, write_json_atomic
from effir_dist.core.settings import RunConfig
from effir_dist.importance.ranking import Importance
from effir_dist.importance.store import WORK_FILE
from effir_dist.models.families.registry import BACKBONES
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import RungScore, TrialRecord, TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search.cluster.resources import Resources
from effir_dist.search.cluster.worker import Job
from effir_dist.search.driver import SearchDriver, here
from effir_dist.search.faults import Hosts
from effir_dist.search.live.view import LiveView
from effir_dist.search.strategy import space_file
from effir_dist.search.strategy.recovering import Recovered
from effir_dist.search.strategy.space import Space
from effir_dist.search.trial_sources import of_repeats, of_search

MODEL = BACKBONES["minilm"].config
SPACE = {"drop_mlp": {"max": 4}, "width_ratio": {"low": 0.4, "high": 1.0, "step": 0.1}}
Outcome = Callable[[TrialSpec, float], dict[str, float]]
"""(spec, share of the training) -> the measures that training and scoring find."""


def smooth(spec: TrialSpec, share: float = 1.0) -> dict[str, float]:
    """Quality falls with size, block by block in its own way; speed grows as blocks shrink; a minute a trial, with 3 s
    for scoring."""
    facts, values = spec.facts(MODEL), spec.values(MODEL)
    lost = sum((0.01, 0.02, 0.09, 0.04, 0.03, 0.05)[b] for b in facts.dropped_mlp)
    lost += 0.1 * (1 - facts.width_ratio) ** 2 + 0.05 * (1 - values["index_bytes"] / values["full_index_bytes"]) ** 2
    ndcg = 0.6 - lost + 0.01 * np.sin(7.0 * float(spec.suggested.get("train.seed", 0)))
    speed = values["full_block_parameters"] / values["block_parameters"]
    seconds = 3 + 57 * share
    return {"ndcg_at_10": float(ndcg), "document_speedup": speed, "query_speedup": speed**0.5, "total_seconds": seconds}


def make_run(folder: Path, values: dict[str, Any] | None = None, space: dict[str, Any] | None = None) -> Run:
    """A run that has its scores of layers and neurons, and no trial yet."""
    plain = {"search.keep_weights": "none", "search.sampler": "tpe", "search.scheduler": "plain"}
    config = config_module.replace(RunConfig(), {**plain, **(values or {})})
    run = Run.create(folder, config_module.to_dict(config), {"space": space or SPACE})
    packed = io.BytesIO()
    np.savez(packed, activation=np.random.default_rng(0).random((6, 1536), np.float32))
    write_bytes_atomic(run.importance_folder / "neurons.npz", packed.getvalue())
    importance = Importance((1, 2, 6, 4, 3, 5), (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6))
    write_json_atomic(run.importance_folder / WORK_FILE, {"train": 0.85, "score": 0.15, "low": 0.05})
    write_json_atomic(run.importance_folder / "importance.json", dataclasses.asdict(importance))
    return run


class NoMirror:
    """In place of Optuna's copy of a run for its own tools, which costs more than all else here."""

    def __init__(self, *_: Any) -> None: ...

    def add(self, record: TrialRecord) -> None: ...
    def screened(self, spec: TrialSpec, score: RungScore) -> None: ...
    def close(self) -> None: ...


def driver_of(
    run: Run,
    config: RunConfig,
    found: Space,
    resources: Resources,
    view: LiveView,
    repeat: int = 0,
    hosts: Hosts = here,
) -> SearchDriver:
    """The driver of a search, or of repeats, as `course.search` makes it."""
    records = run.results()
    recovers = config.train.recovers and config.search.full_recovery
    recovered = Recovered(Goal.of(config.search), records) if recovers else None
    searched = lambda: of_search(run, config, found, MODEL, view, records, recovered)  # noqa: E731
    trials = of_repeats(run, config, repeat, recovered) if repeat else searched()
    return SearchDriver(run, config, trials, records, MODEL, resources, view, run.study_path, hosts)


def drive(
    run: Run,
    outcome: Outcome = smooth,
    most: int = 1000,
    gpus: float = 0.0,
    repeat: int = 0,
    mirror: Any = NoMirror,
) -> SearchDriver:
    """Go on with a run until its driver has nothing more to do, or `most` trials ran. Returns the driver."""
    config = config_module.from_dict(run.config)
    found = space_file.parse_space(run.extra["space"], "test")
    view = LiveView(Console(file=io.StringIO()), "test", 10)
    with mock.patch("effir_dist.search.driver.Mirror", mirror):
        driver = driver_of(run, config, found, Resources(1, 1, gpus, 1), view, repeat)
    while most and isinstance(job := driver.next_job(), Job):
        spec, most = job.spec, most - 1
        driver.started(spec.trial)
        end(run, config, spec, outcome, len(driver.records))
        driver.ended(spec.trial, None)
    driver.close()
    return driver


def end(run: Run, config: RunConfig, spec: TrialSpec, outcome: Outcome, done: int) -> None:
    """What a worker leaves on disk of a trial; done: records that are there already, which sets its time."""
    facts, values = (read(MODEL, config.model.dimension) for read in (spec.facts, spec.values))
    if spec.rung is not None and spec.rung < len(config.search.rungs):
        share = config.search.rungs[spec.rung]
        run.write_rung(spec.trial, RungScore(spec.rung, share, spec.cost, facts, {**values, **outcome(spec, share)}))
        return
    at = f"2026-11-01T{done // 60:02d}:{done % 60:02d}:00.000+00:00"
    found, rungs = {**values, **outcome(spec, 1.0)}, run.rungs(spec.trial)
    earlier = sum(rung.values.get("total_seconds", 0.0) for rung in rungs)
    if "total_seconds" in found:
        found["total_seconds"] += earlier
    record = TrialRecord(spec, "complete", facts=facts, values=found, finished=at, earlier_seconds=earlier)
    run.write_result(dataclasses.replace(record, rungs=tuple(rungs)))

"""What comes on top of a trial's own work: from one to the next in a warm process, and the driver's and Ray's part.

Ratios mean nothing here; the numbers do. The trial in a warm process trains one step of four pairs and scores few short
texts, so that nearly all of it is what every trial pays: `overhead_seconds` is its time without steps and encoding.
"""

from __future__ import annotations

import datetime
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed import first_trial
from benchmarks.speed.frame import Cases, Comparison, Options, Variant
from benchmarks.speed.models import minilm_path, pydocs_path

GOAL_SECONDS = 2.0
TRIAL_SECONDS = 30.0
SHORT_SECONDS = 5.0
START_SECONDS = 10.0
"""From the command to the first trial, on a warm machine."""
GOAL_SHARE = 0.05
"""Of its time in which a worker may wait for the driver, the cost of suggestions left out."""


def comparisons(options: Options) -> Iterator[Comparison]:
    """The warm process; then the driver, where Ray is installed and trials are stand-ins that wait."""
    yield from _warm()
    with tempfile.TemporaryDirectory() as folder:
        found = driver_share(folder, trials=4 if options.small else 20)
    yield Comparison("driver and Ray, trials of 2 s one at a time", {"ours": Variant(lambda: None)}, facts=found)
    rounds, goal = 1 if options.small else 3, {"goal_seconds": START_SECONDS}
    start = Variant(first_trial.measure)
    yield Comparison("from the command to the first trial", {"ours": start}, rounds=rounds, wall=True, facts=goal)
    workers = 8 if options.small else 64
    with tempfile.TemporaryDirectory() as folder:
        found = waiting(folder, workers, trials=(2 if options.small else 20) * workers)
    name = f"driver, {workers} simulated workers, trials of {SHORT_SECONDS:g} s"
    yield Comparison(name, {"ours": Variant(lambda: None)}, facts=found)


def gpu_cases(options: Options) -> Cases:
    """The warm process: no Ray."""
    return {"warm": _warm}


def _warm() -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        run = warm_trial(Path(folder) / "run")
        yield Comparison("a trial in a warm process", {"ours": Variant(run)}, facts={"goal_seconds": GOAL_SECONDS})


def warm_trial(folder: Path) -> Any:
    """A function that runs the next of many equal trials of the built-in search, cut to almost no work."""
    from effir_dist.core import config as c
    from effir_dist.core.settings import RunConfig
    from effir_dist.models import pretrained
    from effir_dist.models.pruning import PruningPlan
    from effir_dist.runs.records import TrialSpec
    from effir_dist.runs.run_folder import Run
    from effir_dist.search.strategy import space_file
    from effir_dist.search.trial import trial
    from effir_dist.search.trial.preparation import prepare

    space = space_file.read_space(space_file.default_file("minilm", "bert"))
    less = {"train.steps": 1, "train.batch_size": 4, "data.max_documents": 100, "data.max_queries": 20}
    less |= {"train.order": "prune_then_tune", "train.distill_embeddings": 0.0}  # needs no other trial's weights
    lengths = {"model.max_document_length": 8, "model.max_query_length": 8, "prune.calibration_texts": 4}
    here = {"model.path": pretrained.find(minilm_path()).location, "data.paths": (pydocs_path(),)}
    config = c.replace(RunConfig(), {**space.settings, **less, **lengths, **here})
    run = Run.create(folder, c.to_dict(config))
    prepare(run, config, ["activation"])
    number = 0

    def next_trial() -> dict[str, float]:
        nonlocal number
        spec = TrialSpec(number, {}, {}, PruningPlan(dropped_mlp=(number % 6,)))
        number += 1
        begun, used = time.perf_counter(), time.process_time()
        record = trial.run_trial(run, config, spec, lambda _: None)
        wall, cpu = time.perf_counter() - begun, time.process_time() - used
        work = record.values["train_seconds"] + record.values["score_seconds"]
        return {"overhead_seconds": wall - work, "cpu_seconds": cpu, "work_seconds": work}

    return next_trial


def driver_share(folder: str, trials: int, seconds: float = 2.0) -> dict[str, float]:
    """Seconds from the end of one trial to the start of the next, and their share where trials take TRIAL_SECONDS."""
    from benchmarks import cluster

    run, config = cluster.make_run(folder, trials, cpus=os.cpu_count() or 1)
    cluster.measure(run, config, seconds, None)
    records = sorted(run.results(), key=lambda record: record.started)
    times = [[datetime.datetime.fromisoformat(getattr(r, key)) for r in records] for key in ("finished", "started")]
    gaps = [(start - end).total_seconds() for end, start in zip(times[0], times[1][1:], strict=False)]
    gap = statistics.median(gaps)
    return {"seconds_between_trials": gap, "most": max(gaps), "share_at_30_s": gap / (TRIAL_SECONDS + gap)}


def waiting(folder: str, workers: int, trials: int) -> dict[str, float]:
    """The share of its time that a simulated worker waits for the driver: of the median worker and the worst one."""
    from benchmarks import cluster, simulated_actors
    from effir_dist.core.files import now

    run, config = cluster.make_run(folder, trials, (os.cpu_count() or 1) / workers, sampler="random")
    with simulated_actors.simulated(
        SHORT_SECONDS, lambda job, number: cluster.write_record(job, SHORT_SECONDS, now(), number)
    ) as begun:
        used = time.process_time()
        cluster.measure(run, config, SHORT_SECONDS, None)
        used = time.process_time() - used
    shares = [worker.share for worker in begun[0].workers.values()]
    gaps = [gap for worker in begun[0].workers.values() for gap in worker.waited]
    return {
        "goal_share": GOAL_SHARE,
        "most_share": max(shares),
        "median_share": statistics.median(shares),
        "median_seconds_between_trials": statistics.median(gaps),
        "driver_seconds_a_trial": begun[0].charged / trials,
        "cpu_seconds_a_trial": used / trials,
    }

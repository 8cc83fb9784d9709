"""What the search itself costs on a cluster: python -m benchmarks.cluster FOLDER [--trials 200] [--seconds 1]

Runs a search whose trials only wait and write a made-up record: what is left of the time is Ray's, the sampler's and
the driver's. Prints one JSON object. FOLDER: of the run, one that all nodes share.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import io
import json
import os
import random
import resource
import socket
import time
from collections import Counter
from typing import Any

import numpy as np

from effir_dist.core import config as config_module
from effir_dist.core.files import now, write_bytes_atomic, write_json_atomic
from effir_dist.core.settings import RunConfig
from effir_dist.core.values import Report
from effir_dist.importance.ranking import Importance
from effir_dist.models.families import base, registry
from effir_dist.runs.records import TrialRecord
from effir_dist.runs.run_folder import Run
from effir_dist.runs.told import TOLD, told
from effir_dist.search.cluster.nodes import at_its_largest
from effir_dist.search.cluster.resources import places
from effir_dist.search.cluster.worker import Job, output_to
from effir_dist.search.strategy import space_file

MODEL = registry.backbone("minilm").config
SPACE = {"drop_mlp": {"max": 5}, "width_ratio": {"low": 0.1, "high": 1.0, "step": 0.01}}


def stand_in(seconds: float, job: Job, report: Report) -> None:
    """A trial that waits; it tells its end as a real one does."""
    started = now()
    report({"phase": "train", "step": 0, "steps": 1})
    time.sleep(seconds)
    report({TOLD: write_record(job, seconds, started, os.getpid())})


def write_record(job: Job, seconds: float, started: str, worker: int) -> str:
    """Write the record of a trial that waited, and return what its worker tells. Its score is made up: of the model's
    size and of chance, so that most trials are not on the front."""
    values = job.spec.values(MODEL)
    score = values["parameters_fraction"] ** 2 * random.Random(job.spec.number).uniform(0.5, 1.0)
    record = TrialRecord(
        spec=dataclasses.replace(job.spec, attributes={"worker": worker}),
        state="complete",
        facts=job.spec.facts(MODEL),
        values={**values, "ndcg_at_10": score, "total_seconds": seconds},
        started=started,
        finished=now(),
        host=socket.gethostname(),
    )
    return told(record.trial, Run.open(job.run).write_result(record))


def make_run(folder: str, trials: int, cpus: float, sampler: str = "tpe") -> tuple[Run, RunConfig]:
    """A run with made-up scores of layers and neurons."""
    values: dict[str, object] = {"search.trials": trials, "resources.cpus_per_trial": cpus}
    values["search.keep_weights"] = "none"
    values |= {"search.sampler": sampler, "search.scheduler": "plain"}  # a stand-in knows no rungs
    config = config_module.replace(RunConfig(), {**values, "data.test_split": ""})
    run = Run.create(folder, config_module.to_dict(config), {"space": SPACE})
    blocks, rng = base.block_count(MODEL), np.random.default_rng(0)
    packed = io.BytesIO()
    np.savez(packed, activation=rng.random((blocks, base.mlp_width(MODEL)), np.float32))
    write_bytes_atomic(run.importance_folder / "neurons.npz", packed.getvalue())
    importance = Importance(*(tuple(rng.random(blocks).tolist()) for _ in range(3)))
    write_json_atomic(run.importance_folder / "importance.json", dataclasses.asdict(importance))
    return run, config


def measure(run: Run, config: RunConfig, seconds: float, address: str | None) -> dict[str, Any]:
    """Run it all; seconds of the wall and of the driver's processor, and where the trials were."""
    from rich.console import Console

    from effir_dist.search.cluster import connection, growth
    from effir_dist.search.course import search
    from effir_dist.search.live.view import LiveView

    space = space_file.parse_space(SPACE, "benchmark")
    view = LiveView(Console(file=io.StringIO()), "benchmark", config.search.trials)
    with run.locked(), output_to(run.log_path), connection.cluster(address) as present, view:
        storage = f"{run.location}/ray"
        started, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        may_come = growth.nodes_that_may_come(config.resources) if address else ()
        search(run, config, space, MODEL, present, may_come, view, storage, functools.partial(stand_in, seconds))
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    records = run.results()
    slots = places(at_its_largest(present, may_come), config.resources.cpus_per_trial or 1, 0)
    busy = sum(r.values["total_seconds"] for r in records)
    first = min(datetime.datetime.fromisoformat(r.started).timestamp() for r in records)
    return {
        "trials": len(records),
        "seconds_a_trial": seconds,
        "at_a_time": slots,
        "wall_seconds": round(wall, 1),
        "share_of_time_in_trials": round(busy / (wall * slots), 3),
        "driver_cpu_share": round((after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime) / wall, 3),
        "driver_peak_bytes": after.ru_maxrss * 1024,
        "workers": len({(r.host, r.spec.attributes["worker"]) for r in records}),
        "trials_by_host": dict(Counter(r.host for r in records)),
        "first_trial_started": round(first),
    }


def main() -> None:
    """Print the measurement."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1.0, help="that a trial waits (default: 1)")
    parser.add_argument("--cpus", type=float, default=1.0, help="that a trial takes (default: 1)")
    parser.add_argument("--address", help="Ray cluster to join (default: one of this machine's own)")
    args = parser.parse_args()
    run, config = make_run(args.folder, args.trials, args.cpus)
    print(json.dumps(measure(run, config, args.seconds, args.address)))


if __name__ == "__main__":
    main()

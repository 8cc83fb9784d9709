"""Eight trials at a time on one GPU; the GPU and its multi-process service are stand-ins."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from rich.console import Console

from benchmarks import cluster
from effir_dist.core import config as config_module
from effir_dist.core.values import Report
from effir_dist.search.cluster import mps
from effir_dist.search.cluster.resources import Resources
from effir_dist.search.cluster.worker import Job
from effir_dist.search.faults import Host, SearchStopped
from effir_dist.search.live.view import LiveView
from effir_dist.search.strategy import space_file
from effir_dist.search.trial.faults import TrialFault
from tests.driven import driver_of, end, make_run, smooth
from tests.mps import install

STAND_IN = cluster.stand_in
TOGETHER, SECONDS = 8, 300


class AllAtOnce:
    """A stand-in for a trial that ends when eight of them run, each in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, seconds: float, job: Job, report: Report) -> None:
        seen = f"{os.environ['CUDA_VISIBLE_DEVICES']} {os.environ[mps.PIPES]} {job.resources.gpus}"
        (self.folder / str(os.getpid())).write_text(seen)
        until = time.monotonic() + SECONDS
        while len([*self.folder.iterdir()]) < TOGETHER:
            if time.monotonic() > until:
                raise RuntimeError(f"{len([*self.folder.iterdir()])} trials at a time")
            time.sleep(0.2)
        STAND_IN(seconds, job, report)

    def __reduce__(self) -> tuple[Any, ...]:
        return AllAtOnce, (self.folder,)


@pytest.mark.slow
def test_eight_trials_share_a_gpu_and_its_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    folder = tmp_path / "running"
    folder.mkdir()
    monkeypatch.setattr(cluster, "stand_in", AllAtOnce(folder))
    run, config = cluster.make_run(str(tmp_path / "run"), trials=10, cpus=0)
    config = config_module.replace(config, {"resources.gpus_per_trial": "auto", "resources.gpu_memory": 80.0})
    with mps.for_search(config.resources, None, lambda _: None):
        pipes = os.environ[mps.PIPES]
        node = {"num_cpus": TOGETHER, "num_gpus": 1, "include_dashboard": False}
        machine = Cluster(initialize_head=True, head_node_args=node)
        try:
            found = cluster.measure(run, config, 0.1, machine.address)
        finally:
            machine.shutdown()
    assert (found["trials"], found["workers"]) == (10, TOGETHER)
    assert {file.read_text() for file in folder.iterdir()} == {f"0 {pipes} 0.125"}
    assert {record.spec.gpus for record in run.results()} == {0.125}


@pytest.mark.parametrize(("gpus", "ends"), [(0.125, False), (1.0, True)])
def test_what_breaks_a_gpu_fails_all_of_its_trials_and_counts_once(gpus: float, ends: bool, tmp_path: Path) -> None:
    """Eight trials that fail at a time on a GPU of each are three in a row: the only host is given up."""
    run = make_run(tmp_path / "run", {"search.trials": TOGETHER})
    config, space = config_module.from_dict(run.config), space_file.parse_space(run.extra["space"], "test")
    view, resources = LiveView(Console(file=io.StringIO()), "test", 10), Resources(1, 1, gpus, TOGETHER)
    hosts = {"one": Host("host-one", TOGETHER)}
    driver = driver_of(run, config, space, resources, view, 0, lambda: hosts)
    jobs = [driver.next_job() for _ in range(TOGETHER)]
    for number in range(2):
        running = [job for job in jobs if isinstance(job, Job)]
        for job in running:
            driver.started(job.spec.trial)
            if number:
                end(run, config, job.spec, smooth, len(driver.records))
            driver.ended(job.spec.trial, None if number else TrialFault("host", "CUDA error: unspecified", ("one",)))
        jobs = [driver.next_job() for _ in running]
    assert isinstance(driver.failure, SearchStopped) == ends
    assert len(driver.records) == (0 if ends else TOGETHER)

"""Ray Tune as this project runs it."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from benchmarks import cluster
from effir_dist.core.config import replace
from effir_dist.core.errors import InputError
from effir_dist.core.values import Report
from effir_dist.search.cluster import calls, connection, tune
from effir_dist.search.cluster.resources import Resources
from effir_dist.search.cluster.worker import Job


class SlowToArrive:
    """A stand-in that the first worker process has at once, and all others after four seconds."""

    def __init__(self, first: Path, driver: int) -> None:
        self.first, self.driver = first, driver

    def __call__(self, seconds: float, job: Job, report: Report) -> None:
        STAND_IN(seconds, job, report)

    def __reduce__(self) -> tuple[Any, ...]:
        return arrive, (self.first, self.driver)


STAND_IN = cluster.stand_in


def arrive(first: Path, driver: int) -> SlowToArrive:
    if os.getpid() != driver:
        with contextlib.suppress(FileExistsError):
            first.mkdir()
            return SlowToArrive(first, driver)
        time.sleep(4)
    return SlowToArrive(first, driver)


@pytest.mark.slow
def test_workers_that_start_slowly_come_to_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are shorter than that. Tune alone keeps the first worker and kills the others as they start."""
    monkeypatch.setattr(cluster, "stand_in", SlowToArrive(tmp_path / "first", os.getpid()))
    run, config = cluster.make_run(str(tmp_path / "run"), trials=60, cpus=(os.cpu_count() or 1) / 4)
    found = cluster.measure(run, config, 0.3, None)
    assert found["trials"] == 60
    assert found["workers"] == found["at_a_time"]


IMPORTED = "wave"
"""A module that nothing else imports, in place of all that trials need, which takes workers ten seconds of a core."""


def in_worker() -> tuple[str | None, int, bool]:
    return os.environ.get("OMP_WAIT_POLICY"), os.nice(0), IMPORTED in sys.modules


def test_workers_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP's variable is there although Ray was started without it, as on a cluster of the user's own. On a small
    machine the first workers have imported what they are told to before they get work."""
    importlib.import_module(connection.PRELOADED)
    monkeypatch.setitem(connection.PRELOADING, "preload_python_modules", [IMPORTED])
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with connection.cluster(None):
        found = calls.call(in_worker, Resources(1, 1, 0, 1))()
    assert found == ("PASSIVE", os.nice(0), connection.preloads())


def test_only_small_machines_without_gpus_preload_for_trials_of_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, gpus, workers, expected in ((2, 0, 1, True), (64, 0, 1, False), (8, 1, 1, False), (2, 0, 2, False)):
        monkeypatch.setattr(os, "cpu_count", lambda cpus=cpus: cpus)
        monkeypatch.setattr(connection, "local_gpus", lambda gpus=gpus: gpus)
        assert connection.preloads(workers) == expected


def test_a_trial_on_this_machine_takes_a_worker_that_is_there() -> None:
    """With a runtime environment, as Tune gives its own, Ray would start another process."""
    actors = tune._PlainActors()
    assert actors.get(SlowToArrive) is actors.get(SlowToArrive)
    assert "runtime_env" not in actors.get(SlowToArrive)._default_options
    assert "runtime_env" in tune._ActorClassCache().get(SlowToArrive)._default_options


@pytest.fixture
def made_up(tmp_path: Path) -> Iterator[Cluster]:
    """A Ray cluster of this machine, without nodes that run something, and without a dashboard."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield found
    found.shutdown()


def promise(nodes: int, **resources: int) -> None:
    """Say to Ray what may come, as a platform's autoscaler does."""
    group = autoscaler_pb2.NodeGroupConfig(resources=resources, max_count=nodes, name="worker")
    state = GcsClient(address=ray.get_runtime_context().gcs_address)
    state.report_cluster_config(autoscaler_pb2.ClusterConfig(node_group_configs=[group]).SerializeToString())


def test_a_search_on_an_empty_cluster_waits_for_what_may_come(
    made_up: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head has no CPU, as in clusters/kuberay.yaml; a node comes once a trial waits for it."""
    run, config = cluster.make_run(str(tmp_path / "run"), trials=2, cpus=0)
    waited: list[int] = []

    def bring_a_node(callback: object, iteration: int, trials: list[Any], **_: Any) -> None:
        if trials and not waited and ray.util.placement_group_table():
            waited.append(iteration)
            made_up.add_node(num_cpus=4, num_gpus=1)

    monkeypatch.setattr(tune._Callback, "on_step_end", bring_a_node)
    with pytest.raises(InputError, match="no node of this cluster has a CPU, and it does not tell what may come"):
        cluster.measure(run, config, 0.1, made_up.address)
    with connection.cluster(made_up.address):
        promise(2, CPU=4, GPU=1)
    never = replace(config, {"resources.gpus_per_trial": 8.0})
    with pytest.raises(InputError, match="8 GPUs, but the largest node has 4 CPUs and 1 GPU"):
        cluster.measure(run, never, 0.1, made_up.address)
    assert cluster.measure(run, config, 0.1, made_up.address)["trials"] == 2
    assert waited
    assert {record.spec.gpus for record in run.results()} == {1.0}


def test_a_trial_fits_one_node_and_the_gpu_is_used(made_up: Cluster, tmp_path: Path) -> None:
    """Of 40 CPUs and a GPU no node has all: a trial that asks for them would wait for ever."""
    made_up.add_node(num_cpus=32)
    made_up.add_node(num_cpus=8, num_gpus=1)
    run, config = cluster.make_run(str(tmp_path / "run"), trials=2, cpus=0)
    assert cluster.measure(run, config, 0.1, made_up.address)["trials"] == 2
    assert {record.spec.gpus for record in run.results()} == {1.0}


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """A Ray that never starts, and the processes that it leaves."""
    left: list[subprocess.Popen[bytes]] = []

    def init(**_: object) -> None:
        left.append(subprocess.Popen(["sleep", "1000"]))
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(connection.ray, "init", init)
    return left


def test_a_machine_too_busy_for_ray_is_said(late: list[subprocess.Popen[bytes]]) -> None:
    other = subprocess.Popen(["sleep", "1000"])
    with pytest.raises(InputError, match=r"Ray did not start .* 3 times in the 30 s .*run the command again"):
        connection.cluster(None).__enter__()
    assert len(late) == 3
    assert not any(psutil.pid_exists(process.pid) for process in late)
    assert other.poll() is None, "what is not Ray's goes on"
    other.kill()


def test_ray_is_started_again_where_it_came_too_late(
    late: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = connection.ray.init

    def second(**options: object) -> None:
        if not late:
            given_up(**options)

    monkeypatch.setattr(connection.ray, "init", second)
    connection._start_here({})
    assert [psutil.pid_exists(process.pid) for process in late] == [False]


@pytest.mark.parametrize("listens", [False, True])
def test_a_cluster_that_is_not_there_is_missed_at_once(listens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is at its port, or something that is no Ray and never answers."""
    assert connection.ANSWER_SECONDS < 20
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if not listens:
            server.close()
        with pytest.raises(InputError, match=f"no Ray cluster at '{address}': no answer from .* in 1 s; start one"):
            connection.check_answers(address)
    with pytest.raises(InputError, match="no Ray cluster at 'nowhere': "):
        connection.check_answers("nowhere")

"""Ray's own cluster of made-up nodes on this machine, one of which cannot run trials: what tests/search/test_faults.py
shows of the driver alone holds with Ray Tune and Ray Train."""

from __future__ import annotations

import io
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from rich.console import Console

from benchmarks import cluster as stand_ins
from effir_dist.core import config as config_module
from effir_dist.core.errors import InputError
from effir_dist.core.values import Report
from effir_dist.runs.run_folder import Run
from effir_dist.runs.tries import excluded_hosts, tries_of
from effir_dist.search.cluster import calls, connection, tune
from effir_dist.search.cluster.resources import Resources
from effir_dist.search.cluster.worker import Job
from effir_dist.search.course import search
from effir_dist.search.live.view import LiveView
from effir_dist.search.strategy import space_file
from effir_dist.search.trial.faults import TrialFault

pytestmark = pytest.mark.slow
CUDA = "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA`"


def stand_in(job: Job, report: Report) -> None:
    """A trial on the node that is broken, the first that gets one, fails at once. Others of one worker wait until that
    node is known to be broken."""
    import ray
    import torch.distributed as dist

    report({"phase": "prune"})
    run, here = Run.open(job.run), ray.get_runtime_context().get_node_id()
    broken = run.folder / f"broken-{here}"
    if not any(run.folder.glob("broken-*")) and (not dist.is_initialized() or dist.get_rank() == 0):
        broken.touch()
    if broken.exists():
        raise RuntimeError(CUDA)
    if not dist.is_initialized():
        deadline = time.monotonic() + 120
        while not excluded_hosts(run):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    if not dist.is_initialized() or dist.get_rank() == 0:
        stand_ins.stand_in(0.1, job, lambda progress: None)


def broken_node(run: Run) -> str:
    [name] = run.folder.glob("broken-*")
    return f"node {name.name.split('-')[1][:8]}"


class NotInstalled:
    """Work that cannot be unpickled on some nodes, as if a package were missing there."""

    def __init__(self, everywhere: bool) -> None:
        self.everywhere, self.driver = everywhere, os.getpid()

    def __call__(self, job: Job, report: Report) -> None:
        stand_ins.stand_in(0.5, job, report)

    def __reduce__(self) -> tuple[Any, ...]:
        return arrive, (self.everywhere, self.driver)


def arrive(everywhere: bool, driver: int) -> NotInstalled:
    if os.getpid() != driver and (everywhere or os.environ.get("EFFIR_BROKEN")):
        raise ModuleNotFoundError("No module named 'faiss'")
    return NotInstalled(everywhere)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Three nodes: the head, a broken one and a sound one, each with two CPUs."""
    import ray
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=small)
    nodes.add_node(**small, node_ip_address="127.0.0.2", env_vars={"EFFIR_BROKEN": "1"})
    nodes.add_node(**small, node_ip_address="127.0.0.3")
    yield str(nodes.address)
    ray.shutdown()
    nodes.shutdown()


def run_search(tmp_path: Path, address: str, work: tune.Work, **values: object) -> tuple[Run, str]:
    """A search of eight trials with one worker of two CPUs each, and what it told the user."""
    run, config = stand_ins.make_run(str(tmp_path / "run"), trials=8, cpus=2)
    config = config_module.replace(config, values)
    shown = io.StringIO()
    view = LiveView(Console(file=shown, width=400), "test", 8)
    space = space_file.parse_space(stand_ins.SPACE, "test")
    # Ray's list of what dead drivers left is asked of its dashboard, whose port another cluster may have here.
    no_dashboard = mock.patch.object(connection, "_free_what_dead_drivers_reserved")
    with run.locked(), no_dashboard, connection.cluster(address) as present:
        try:
            search(run, config, space, stand_ins.MODEL, present, (), view, str(tmp_path / "ray"), work)
        except InputError as error:
            return run, shown.getvalue() + str(error)
    return run, shown.getvalue()


def test_a_node_that_fails_fast_gets_three_trials(tmp_path: Path, address: str) -> None:
    run, shown = run_search(tmp_path, address, stand_in)
    assert [r.state for r in run.results()] == ["complete"] * 8
    [host] = excluded_hosts(run)
    assert broken_node(run) in host.host
    assert host.why == "3 trials in a row failed on it, the last by RuntimeError: " + CUDA.splitlines()[0]
    assert f"host {host.host} gets no more trials" in shown
    tries = [each for trial in run.trials() for each in tries_of(run, trial)]
    assert {(each.host, each.kind) for each in tries} == {(host.host, "host")}
    assert len(tries) in (3, 4)  # one more may be on its way there when the third fails


def claim(folder: str) -> str:
    """The node that this runs on; the first that runs it is broken."""
    import ray

    here = str(ray.get_runtime_context().get_node_id())
    if not any(Path(folder).glob("broken-*")):
        (Path(folder) / f"broken-{here}").touch()
    if (Path(folder) / f"broken-{here}").exists():
        raise RuntimeError(CUDA)
    return here


def test_work_that_is_no_trial_is_tried_on_other_nodes(tmp_path: Path, address: str) -> None:
    with mock.patch.object(connection, "_free_what_dead_drivers_reserved"), connection.cluster(address):
        found = calls.call(claim, Resources(1, 2, 0, 3), str(tmp_path))()
        assert [path.name != f"broken-{found}" for path in tmp_path.glob("broken-*")] == [True]
        with pytest.raises(TrialFault, match="KeyError: 'no such'"):
            calls.call({}.__getitem__, Resources(1, 2, 0, 3), "no such")()


def test_a_node_without_a_package_gets_no_trial_and_is_named(tmp_path: Path, address: str) -> None:
    run, _ = run_search(tmp_path, address, NotInstalled(everywhere=False))
    assert [r.state for r in run.results()] == ["complete"] * 8
    [host] = excluded_hosts(run)
    assert "127.0.0.2" in host.host
    assert host.why == "no worker can be started on it: ModuleNotFoundError: No module named 'faiss'"
    assert len([each for trial in run.trials() for each in tries_of(run, trial)]) in (1, 2)  # two may begin at once


def test_a_package_missing_everywhere_ends_the_search_at_once(tmp_path: Path, address: str) -> None:
    run, shown = run_search(tmp_path, address, NotInstalled(everywhere=True))
    assert "no host is left for trials" in shown.splitlines()[-1]
    assert "No module named 'faiss'" in shown.splitlines()[-1]
    assert all(name in shown.splitlines()[-1] for name in ("127.0.0.2", "127.0.0.3", "--resume"))
    assert run.results() == []
    tries = [each.host for trial in run.trials() for each in tries_of(run, trial)]
    assert len({*tries}) == 3
    assert max(Counter(tries).values()) <= 2  # one more may be on its way to a node before the first has said why


def test_a_trial_of_two_workers_is_tried_on_other_nodes(tmp_path: Path, address: str) -> None:
    two = {"resources.workers_per_trial": 2, "resources.cpus_per_trial": 4, "search.trials": 2}
    run, _ = run_search(tmp_path, address, stand_in, **two)
    assert [r.state for r in run.results()] == ["complete"] * 2
    tries = [each for trial in run.trials() for each in tries_of(run, trial)]
    assert {each.kind for each in tries} == {"host"}
    assert all(broken_node(run) in each.host and "," not in each.host.split("node")[1] for each in tries)
    assert len(tries_of(run, "0000")) == 1

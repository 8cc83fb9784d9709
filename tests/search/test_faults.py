"""Failures that are no outcome of a trial, on made-up hosts, by the real driver. tests/search/test_faulty_nodes.py has
them on Ray's nodes. And one that is its trial's outcome."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest
from rich.console import Console

from effir_dist import load_run
from effir_dist.core import config as config_module
from effir_dist.core.errors import InputError
from effir_dist.models.pruning import PruningPlan
from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.runs.tries import excluded_hosts, tries_of
from effir_dist.search.cluster.resources import Resources
from effir_dist.search.cluster.worker import Job
from effir_dist.search.driver import SearchDriver
from effir_dist.search.faults import COMING, Host, SearchStopped
from effir_dist.search.live.view import LiveView
from effir_dist.search.strategy import space_file
from effir_dist.search.trial.faults import TrialFault, gravest, kind_of
from effir_dist.search.trial.trial import run_trial
from tests.driven import SPACE, NoMirror, driver_of, end, make_run, smooth
from tests.training.test_distillation import make_run as real_run
from tests.training.test_training import quiet

CUDA = "AcceleratorError: CUDA error: an illegal memory access was encountered"
Fails = Callable[[TrialSpec, str], TrialFault | None]


@dataclass
class MadeUpCluster:
    """A cluster in which what fails, fails at once, and the host is free first again."""

    run: Run
    fails: Fails
    names: tuple[str, ...] = ("bad", "good", "fine")
    workers: int = 1
    grows_by: tuple[str, ...] = ()
    """Hosts that come when nothing else has room."""
    ran: list[tuple[str, str]] = field(default_factory=list)
    """(trial, host) of all tries."""
    shown: io.StringIO = field(default_factory=io.StringIO)

    def hosts(self) -> Mapping[str, Host]:
        coming = {COMING: Host("coming", len(self.grows_by))} if self.grows_by else {}
        return {**{name: Host(f"host-{name}", 1) for name in self.names}, **coming}

    def search(self, **values: object) -> SearchDriver:
        """Run a search, or what is left of one."""
        config = config_module.replace(config_module.from_dict(self.run.config), values)
        space = space_file.parse_space(self.run.extra["space"], "test")
        view = LiveView(Console(file=self.shown, width=400), "test", 10)
        resources = Resources(self.workers, self.workers, 0, len(self.names) // self.workers)
        with mock.patch("effir_dist.search.driver.Mirror", NoMirror):
            driver = driver_of(self.run, config, space, resources, view, 0, self.hosts)
        waiting: list[Job] = []
        while True:
            while isinstance(job := driver.next_job(), Job):
                waiting.append(job)
            for job in [job for job in waiting if not driver.has_place(job)]:
                waiting.remove(job)
                driver.ended(job.spec.trial, None)
            while isinstance(job := driver.next_job(), Job):
                waiting.append(job)
            running = self._start(driver, waiting)
            if waiting and not running:
                self.names, self.grows_by = self.names + self.grows_by, ()
                running = self._start(driver, waiting)
            if not running:
                return driver
            for job, hosts in running:
                fault = next((f for f in (self.fails(job.spec, host) for host in hosts) if f), None)
                if fault is None:
                    end(self.run, config, job.spec, smooth, len(driver.records))
                driver.ended(job.spec.trial, fault)

    def _start(self, driver: SearchDriver, waiting: list[Job]) -> list[tuple[Job, list[str]]]:
        """Each waiting job on the first hosts that are free; those that fail come first in what is returned."""
        free, found = list(self.names), []
        for job in [*waiting]:
            hosts = [name for name in free if name not in job.avoid][: self.workers]
            if len(hosts) == self.workers:
                waiting.remove(job)
                free = [name for name in free if name not in hosts]
                driver.started(job.spec.trial)
                driver.progressed(job.spec.trial, {"phase": "prune", "nodes": ",".join(hosts)})
                self.ran += [(job.spec.trial, host) for host in hosts]
                found.append((job, hosts))
        return sorted(found, key=lambda pair: pair[1])

    def count(self, host: str) -> int:
        return sum(ran_on == host for _, ran_on in self.ran)


def on(host: str, kind: str = "host", reason: str = CUDA) -> Fails:
    return lambda spec, at: TrialFault(kind, reason, (at,)) if at == host else None  # type: ignore[arg-type]


def nowhere(spec: TrialSpec, at: str) -> TrialFault | None:
    return None


@pytest.mark.parametrize("scheduler", ["plain", "screening"])
def test_a_host_that_fails_fast_gets_three_trials_and_is_named(tmp_path: Path, scheduler: str) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 12, "search.scheduler": scheduler})
    hosts = MadeUpCluster(run, on("bad"))
    driver = hosts.search()
    assert driver.failure is None
    assert [r.state for r in run.results()] == ["complete"] * 12
    assert hosts.count("bad") == 3
    [excluded] = excluded_hosts(run)
    assert excluded.host == "host-bad"
    assert excluded.why == f"3 trials in a row failed on it, the last by {CUDA}"
    assert "host host-bad gets no more trials: 3 trials in a row" in hosts.shown.getvalue()
    failed = [trial for trial, host in hosts.ran if host == "bad"]
    assert [(t.host, t.kind, t.reason) for trial in failed for t in tries_of(run, trial)] == [
        ("host-bad", "host", CUDA)
    ] * 3


def test_a_trial_of_two_workers_is_tried_on_other_hosts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 6})
    hosts = MadeUpCluster(
        run, on("bad", "network", "DistBackendError: NCCL error"), ("bad", "good", "fine", "more"), workers=2
    )
    assert hosts.search().failure is None
    assert [r.state for r in run.results()] == ["complete"] * 6
    assert hosts.count("bad") == 3


def test_a_trial_that_needs_all_hosts_does_not_wait_for_others(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 3})
    left = [1]
    fails = lambda spec, at: TrialFault("network", "NCCL", (at,)) if at == "bad" and left and left.pop() else None  # noqa: E731
    hosts = MadeUpCluster(run, fails, ("bad", "good"), workers=2)
    assert hosts.search().failure is None
    assert [r.state for r in run.results()] == ["complete"] * 3


def test_a_trial_that_breaks_its_hosts_costs_no_host_and_runs_again_on_resume(tmp_path: Path) -> None:
    """The third trial ends in a CUDA error wherever it runs."""
    run = make_run(tmp_path / "run", {"search.trials": 8})
    fails = lambda spec, at: TrialFault("host", CUDA, (at,)) if spec.number == 2 else None  # noqa: E731
    hosts = MadeUpCluster(run, fails)
    driver = hosts.search()
    assert driver.failure is None
    assert {host for trial, host in hosts.ran if trial == "0002"} == {"bad", "good", "fine"}
    assert excluded_hosts(run) == []
    assert "0002 failed for reasons that are not the trial's: --resume" in driver.why
    assert [r.trial for r in run.results()] == [f"{n:04d}" for n in range(8) if n != 2]
    assert len(tries_of(run, "0002")) == 3

    again = MadeUpCluster(run, nowhere)
    again.search()
    assert [r.state for r in run.results()] == ["complete"] * 8
    assert [trial for trial, _ in again.ran] == ["0002"]


@pytest.mark.parametrize("scheduler", ["plain", "screening"])
def test_equal_failures_in_a_row_stop_the_search_and_resume_runs_them_again(tmp_path: Path, scheduler: str) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 12, "search.scheduler": scheduler})
    names = tuple(f"h{n}" for n in range(8))
    fails = lambda spec, at: TrialFault("network", f"cannot reach 10.0.0.{spec.number}", (at,))  # noqa: E731
    driver = MadeUpCluster(run, fails, names).search(**{"search.equal_failures": 5})
    assert isinstance(driver.failure, SearchStopped)
    assert str(driver.failure).startswith("5 trials in a row failed in the same way: cannot reach 10.0.0.")
    assert f"go on with --resume {run.folder}" in str(driver.failure)
    assert run.results() == []
    begun = {spec.trial for spec in run.pending()}

    MadeUpCluster(run, nowhere, names).search()
    assert [r.state for r in run.results()] == ["complete"] * 12
    assert begun <= {r.trial for r in run.results()} or scheduler == "screening"
    assert all(run.reached(spec) for spec in run.pending())


def test_equal_outcomes_of_trials_stop_the_search_too(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 40})
    fails = lambda spec, at: TrialFault("other", f"ValueError: no shape {spec.number}", (at,))  # noqa: E731
    hosts = MadeUpCluster(run, fails)
    driver = hosts.search()
    assert "10 trials in a row failed in the same way: ValueError: no shape" in str(driver.failure)
    assert 10 <= len(run.results()) < 13  # two others ran then
    assert {r.state for r in run.results()} == {"failed"}
    assert excluded_hosts(run) == []
    for record in run.results():  # each on two hosts
        assert len({host for trial, host in hosts.ran if trial == record.trial}) == 2
    assert str(MadeUpCluster(run, fails).search(**{"search.equal_failures": 0}).failure) == "None"
    assert len(run.results()) == 40


def test_an_error_that_a_trial_has_on_one_host_only_is_the_hosts(tmp_path: Path) -> None:
    """Whatever its text: another version of a package, for example."""
    run = make_run(tmp_path / "run", {"search.trials": 12})
    hosts = MadeUpCluster(run, on("bad", "other", "TypeError: forward() got an unexpected keyword argument"))
    hosts.search()
    assert [r.state for r in run.results()] == ["complete"] * 12
    assert [host.host for host in excluded_hosts(run)] == ["host-bad"]


def test_a_host_on_which_no_worker_starts_is_left_at_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 6})
    reason = "no worker can be started on it: ModuleNotFoundError: No module named 'faiss'"
    hosts = MadeUpCluster(run, on("bad", "unfit", reason))
    assert hosts.search().failure is None
    assert [r.state for r in run.results()] == ["complete"] * 6
    assert hosts.count("bad") == 1
    assert [(host.host, host.why) for host in excluded_hosts(run)] == [("host-bad", reason)]


def test_a_cluster_that_may_grow_waits_for_other_hosts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 3})
    cluster = MadeUpCluster(run, on("bad", "unfit", "No module named 'faiss'"), ("bad",), grows_by=("good",))
    assert cluster.search().failure is None
    assert [r.state for r in run.results()] == ["complete"] * 3
    assert [host.host for host in excluded_hosts(run)] == ["host-bad"]


def test_where_no_host_can_start_a_worker_the_search_ends_at_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 6})
    hosts = MadeUpCluster(run, lambda spec, at: TrialFault("unfit", "No module named 'faiss'", (at,)))
    driver = hosts.search()
    assert str(driver.failure) == (
        "no host is left for trials (host-bad, host-fine, host-good): No module named 'faiss'; "
        f"mend that, then go on with --resume {run.folder}"
    )
    assert len(hosts.ran) == 3
    assert run.results() == []


def test_the_only_host_runs_others_before_it_tries_again(tmp_path: Path) -> None:
    """What fails once and works later is not lost; what always fails ends the search after three trials."""
    run = make_run(tmp_path / "run", {"search.trials": 4})
    left = [1]
    fails = lambda spec, at: TrialFault("host", CUDA, (at,)) if spec.number == 1 and left and left.pop() else None  # noqa: E731
    hosts = MadeUpCluster(run, fails, ("only",))
    hosts.search()
    assert [trial for trial, _ in hosts.ran] == ["0000", "0001", "0002", "0003", "0001"]
    assert [r.state for r in run.results()] == ["complete"] * 4

    broken = make_run(tmp_path / "broken", {"search.trials": 9})
    hosts = MadeUpCluster(broken, on("only"), ("only",))
    assert "no host is left for trials (host-only): 3 trials in a row failed" in str(hosts.search().failure)
    assert [trial for trial, _ in hosts.ran] == ["0000", "0001", "0002"]


def test_processes_that_die_leave_the_last_host_in_use(tmp_path: Path) -> None:
    """Twenty times a trial is tried again, and then recorded as failed."""
    run = make_run(tmp_path / "run", {"search.trials": 2})
    fails = lambda spec, at: TrialFault("lost", "the worker process died", (at,)) if spec.number == 0 else None  # noqa: E731
    hosts = MadeUpCluster(run, fails, ("only",))
    hosts.search()
    assert [(r.state, r.reason) for r in run.results()] == [("failed", "the worker process died"), ("complete", "")]
    assert sum(trial == "0000" for trial, _ in hosts.ran) == 21
    assert excluded_hosts(run) == []


def test_a_waiting_trial_is_given_again_when_its_other_hosts_are_gone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 2})
    hosts = MadeUpCluster(run, nowhere)
    config = config_module.from_dict(run.config)
    view = LiveView(Console(file=io.StringIO()), "test", 10)
    space = space_file.parse_space(SPACE, "test")
    driver = driver_of(run, config, space, Resources(1, 1, 0, 1), view, 0, hosts.hosts)
    first = driver.next_job()
    assert isinstance(first, Job)
    driver.started(first.spec.trial)
    driver.ended(first.spec.trial, TrialFault("host", CUDA, ("bad",)))
    again = driver.next_job()
    assert isinstance(again, Job)
    assert (again.spec.trial, again.avoid) == (first.spec.trial, ("bad",))
    assert [text.split(":")[-1] for text in again.tries] == [" an illegal memory access was encountered"]
    assert driver.has_place(again)
    hosts.names = ("bad",)
    assert not driver.has_place(again)
    driver.ended(again.spec.trial, None)  # Tune stopped it
    [_, third] = (driver.next_job(), driver.next_job())
    jobs = [job for job in (_, third) if isinstance(job, Job)]
    assert all(job.avoid == () for job in jobs)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "host"),
        (RuntimeError("CUDA driver initialization failed, you might not have a CUDA gpu"), "host"),
        (RuntimeError("No CUDA GPUs are available"), "host"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "host"),
        (ImportError("libfaiss.so: cannot open shared object file"), "host"),
        (ModuleNotFoundError("No module named 'faiss'"), "host"),
        (RuntimeError("Failed to import transformers.models.bert because of the following error"), "host"),
        (OSError(errno.ENOSPC, "No space left on device"), "host"),
        (OSError(errno.EIO, "Input/output error"), "host"),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:77, unhandled cuda error"), "network"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"), "network"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "network"),
        (TimeoutError("timed out"), "network"),
        (RuntimeError("CUDA error: device-side assert triggered"), "other"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "own"),
        (MemoryError(), "own"),
        (FloatingPointError("the loss became nan at step 1 of 5"), "own"),
        (ValueError("operands could not be broadcast together"), "other"),
        (KeyError("layer"), "other"),
        (InputError("data/toy has no corpus.jsonl"), "unfit"),
        (InputError("no space left on /runs/demo/trials/0001 while writing model.safetensors"), "input"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_whose_fault_an_error_is(error: Exception, kind: str) -> None:
    assert kind_of(error, "/runs/demo") == kind
    wrapped = RuntimeError("the trial failed")
    wrapped.__cause__ = error
    if kind in ("host", "network"):
        assert kind_of(wrapped, "/runs/demo") == kind


def test_of_several_workers_the_cause_is_told_and_not_what_it_did_to_the_others() -> None:
    closed = [TrialFault("network", "Connection closed by peer", (node,)) for node in "bc"]
    cause = TrialFault("host", CUDA, ("a",))
    assert gravest([closed[0], cause, closed[1]]) is not None
    found = gravest([closed[0], cause, closed[1]])
    assert (found.kind, found.reason, found.nodes) == ("host", CUDA, ("a",))
    assert gravest(closed).nodes == ("b", "c")


def test_a_training_that_diverges_fails_its_own_trial_with_the_reason(
    tmp_path: Path, checkpoints: dict[str, Path], collection: Path
) -> None:
    run, config = real_run(collection, checkpoints["llama"], tmp_path / "run")
    for number, rate in enumerate((1e30, 1e-4)):
        run_trial(run, config, TrialSpec(number, {"train.learning_rate": rate}, {}, PruningPlan((1,))), quiet)
    table = load_run(run.folder).trials
    assert [*table["state"]] == ["failed", "complete"]
    assert "not a number" in table["reason"][0]
    assert table["reason"][1] == ""

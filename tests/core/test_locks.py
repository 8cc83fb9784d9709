"""The lease of a run in a bucket: a driver that was cut off for longer stops, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from effir_dist.core import locks
from effir_dist.core.errors import InputError
from effir_dist.core.files import write_bytes_atomic
from effir_dist.core.locks import working_for
from effir_dist.core.storage import names, read_bytes
from effir_dist.runs.run_folder import Run
from tests import ROOT
from tests.bucket import CREDENTIALS, s3_server
from tests.faulty import FaultyS3
from tests.synthetic import record

DRIVER = """
import signal, sys, time
from effir_dist.core import locks, storage
from effir_dist.core.errors import command
from effir_dist.core.files import write_bytes_atomic
from effir_dist.runs.run_folder import Run
signal.signal(signal.SIGINT, signal.SIG_IGN)
locks.BEAT_SECONDS, locks.LEASE_SECONDS = 0.2, 2.0
storage.ATTEMPTS, storage.FIRST_WAIT = 3, 0.01
{first}

@command
def main():
    run = Run.open(sys.argv[1])
    with run.locked():
        print("held", flush=True)
        {body}

main()
"""
WAITS = "time.sleep(600)"
WRITES = """
        for line in sys.stdin:
            try:
                write_bytes_atomic(run.folder / "late", b"late")
            finally:
                print("tried", flush=True)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyS3]:
    """A wire to a real S3 server, for the driver that is cut off; the others talk to the server."""
    import boto3
    import s3fs

    with s3_server(tmp_path_factory.mktemp("s3") / "log") as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket="runs")
        found = FaultyS3(address)
        yield found
        found.close()


@pytest.fixture
def run(store: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(locks, "LEASE_SECONDS", 2.0)
    return Run.create(f"s3://runs/{tmp_path.name}", {})


def cut_off_driver(store: FaultyS3, run: Run, body: str, first: str = "") -> subprocess.Popen[str]:
    """A driver in a process of its own, behind the wire, that holds the lease. It ignores SIGINT, as what a script
    starts in the background does. first: code that runs before."""
    environment = {**os.environ, "AWS_ENDPOINT_URL": store.address, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DRIVER.format(first=first, body=body), run.location]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload]
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process  # type: ignore[no-any-return]


def test_a_driver_that_was_cut_off_stops_with_a_sentence(store: FaultyS3, run: Run) -> None:
    process = cut_off_driver(store, run, WAITS)
    with store.fail(500):
        other = run.locked()
        other.__enter__()  # waits until the lease has stood still for long enough
    output, errors = process.communicate(timeout=300)  # back on the network
    assert process.returncode == 2
    assert errors.strip().splitlines()[-1].startswith(f"error: another driver has taken over {run.folder}")
    assert "Traceback" not in errors
    assert output == ""
    assert json.loads(read_bytes(run.folder / "lock"))["id"] == run.lease
    other.__exit__(None, None, None)
    assert names(run.folder) == ["config.yaml"]


def test_what_it_would_write_is_not_written(store: FaultyS3, run: Run) -> None:
    """A process that stood still (a laptop that slept) writes before its next beat."""
    process = cut_off_driver(store, run, WRITES, "locks._Lease.beat = lambda *_: None")
    with run.locked():
        output, errors = process.communicate("write\n", timeout=300)
        assert process.returncode == 2
        assert output == "tried\n"
        assert "another driver has taken over" in errors
        assert "late" not in names(run.folder)


def test_a_worker_of_a_driver_that_lost_its_lease_writes_nothing(run: Run) -> None:
    with run.locked():
        with working_for(run.folder, run.lease):
            write_bytes_atomic(run.folder / "in time", b"")
        with pytest.raises(InputError, match="another driver has taken over"), working_for(run.folder, "another"):
            write_bytes_atomic(run.folder / "late", b"")
    assert names(run.folder) == ["config.yaml", "in time"]


@pytest.fixture(params=["disk", "bucket"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Run]:
    """A second driver's view of a run, on a disk or in a bucket."""
    if request.param == "disk":
        Run.create(tmp_path / "run", {})
        return lambda: Run.open(tmp_path / "run")
    request.getfixturevalue("store")
    Run.create(f"s3://runs/{tmp_path.name}", {})
    return lambda: Run.open(f"s3://runs/{tmp_path.name}")


def test_two_drivers_cannot_give_one_number_to_two_plans(both: Callable[[], Run]) -> None:
    one, two = both(), both()
    first, second = record(0, 0.6, dropped=[1]), record(0, 0.7, dropped=[2])
    one.write_spec(first.spec)
    with pytest.raises(InputError, match="is of another plan, which another driver chose"):
        two.write_spec(second.spec)
    with pytest.raises(InputError, match="is of another plan"):
        two.write_result(second)
    one.write_spec(dataclasses.replace(first.spec, rung=1))  # a promotion is the same plan
    assert one.write_result(first).values["ndcg_at_10"] == 0.6

"""Runs in a bucket read like runs on a disk, over a bad wire too, and have one driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effir_dist.core import config, locks, storage
from effir_dist.core.errors import InputError
from effir_dist.core.files import write_bytes_atomic
from effir_dist.core.storage import place, read_bytes, read_locally, written_locally
from effir_dist.export.command import export
from effir_dist.export.selection import best
from effir_dist.models.encoder import load_encoder
from effir_dist.models.pruning import PruningPlan
from effir_dist.report import command as report_command
from effir_dist.runs.records import SplitScores, TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search.cluster.worker import output_to
from effir_dist.search.preflight import node_checks, trial
from effir_dist.search.preflight.node_checks import Request
from effir_dist.training.train_state import TrainState, read_state, write_state
from tests import ROOT
from tests.bucket import CREDENTIALS, BadWire, s3_server
from tests.exports import write_run
from tests.synthetic import record


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as address:
        yield address


@pytest.fixture
def connect(server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """connect(address) points all clients at a server or a wire to one; returns the URL of a bucket there."""
    import boto3
    import s3fs

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=server).create_bucket(Bucket="runs")

    def to(address: str) -> str:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        s3fs.S3FileSystem.clear_instance_cache()
        return "s3://runs"

    return to


@pytest.fixture(params=["disk", "bucket", pytest.param("bad wire", marks=pytest.mark.slow)])
def home(request: pytest.FixtureRequest, server: str, connect: Callable[[str], str], tmp_path: Path) -> Iterator[str]:
    """Where runs are kept."""
    if request.param == "disk":
        yield str(tmp_path)
    elif request.param == "bucket":
        yield f"{connect(server)}/{tmp_path.name}"
    else:
        wire = BadWire(server, share=0.25)
        yield f"{connect(wire.address)}/{tmp_path.name}"
        wire.close()
        assert sum(wire.faults.values()) > 0, "every request went well"


def test_a_trial_is_exported_from_wherever_its_run_is(
    home: str, checkpoints: dict[str, Path], collection: Path, tmp_path: Path
) -> None:
    run = write_run(f"{home}/tiny", checkpoints["llama"], collection)
    export(run, best(Run.open(run.location), "parameters_fraction < 1"), tmp_path / "out")
    trial = json.loads((tmp_path / "out" / "plan.json").read_text())["trial"]
    expected = load_encoder(f"{run.location}/trials/{trial}").encode(["a", "b c"])
    np.testing.assert_array_equal(load_encoder(str(tmp_path / "out")).encode(["a", "b c"]), expected)
    assert "| search | toy |" in (tmp_path / "out" / "README.md").read_text()


def test_a_run_is_the_same_wherever_it_is(home: str, checkpoints: dict[str, Path]) -> None:
    run = Run.create(f"{home}/demo", config.to_dict(config.RunConfig()), {"space": {}})
    with pytest.raises(InputError, match="exists already"):
        Run.create(f"{home}/demo", {})
    encoder = load_encoder(str(checkpoints["llama"]))
    with run.locked():
        for number in (0, 10):
            run.write_spec(TrialSpec(number, {}, {}, PruningPlan()))
        run.write_spec(record(2, 0.6, 18_000_000, [3], width=0.5).spec)
        assert next((spec.trial, spec.plan) for spec in run.pending()) == ("0000", PruningPlan())
        run.write_result(record(0, 0.66))
        run.write_result(record(2, 0.6, 18_000_000, [3], width=0.5))
        assert run.write_result(record(0, 0.1)).values["ndcg_at_10"] == 0.66
        with written_locally(run.trial_folder("0002")) as folder:
            encoder.save(folder)
        run.write_split_scores("0002", "test", SplitScores({"ndcg_at_10": 0.5}, {}))
        run.note_out_of_memory("0010", "out of memory")
        write_bytes_atomic(run.trial_folder("0010") / "junk", b"junk")
        state = TrainState([0.5, 0.25], 2.0, {"weight/a": torch.arange(3.0)})
        write_state(run.checkpoint_path("0010"), state, "key")
    again = Run.open(run.location)
    assert config.from_dict(again.config) == config.RunConfig()
    assert [r.trial for r in again.results()] == ["0000", "0002"]
    assert again.split_scores("test") == {"0002": SplitScores({"ndcg_at_10": 0.5}, {})}
    assert (again.next_number(), again.name, again.has_weights("0002")) == (11, "demo", True)
    again.clear_pending("0010")
    assert storage.names(again.trial_folder("0010")) == ["checkpoint.safetensors", "out_of_memory", "trial.json"]
    found = read_state(again.checkpoint_path("0010"), "key")
    assert found is not None
    assert (found.losses, found.tensors["weight/a"].tolist()) == ([0.5, 0.25], [0, 1, 2])
    with read_locally(again.trial_folder("0002")) as folder:
        np.testing.assert_array_equal(load_encoder(str(folder)).encode(["a"]), encoder.encode(["a"]))
    again.remove_weights("0002")
    assert not again.has_weights("0002")
    report_command.main([str(run.location)])
    written = {"report.html", "trials.csv", "front.parquet", "front.png", "front.svg"}
    assert written <= {*storage.names(again.report_folder)}
    assert read_bytes(again.report_folder / "trials.csv").startswith(b"trial,state")
    assert storage.names(place(home)) == ["demo"]


def test_a_bucket_has_one_driver(
    server: str, connect: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(f"{connect(server)}/{tmp_path.name}", {})
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(locks, "LEASE_SECONDS", 2.0)
    with run.locked():
        with pytest.raises(InputError, match=r"is being searched by process \d+ on .*; wait for it"):
            run.locked().__enter__()
    assert storage.names(run.folder) == ["config.yaml"]


def test_a_dead_drivers_lease_is_taken_over(
    server: str, connect: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(f"{connect(server)}/{tmp_path.name}", {})
    code = "from effir_dist.runs.run_folder import Run; import time\n"
    code += f"with Run.open({run.location!r}).locked(): time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ))
    end = time.monotonic() + 60
    while "lock" not in storage.names(run.folder):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    process.kill()
    process.wait()
    monkeypatch.setattr(locks, "LEASE_SECONDS", 1.0)
    with run.locked():
        assert "lock" in storage.names(run.folder)
    assert "lock" not in storage.names(run.folder)


def test_a_disks_lock_that_was_copied_along_is_nobodys(
    server: str, connect: Callable[[str], str], tmp_path: Path
) -> None:
    run = Run.create(f"{connect(server)}/{tmp_path.name}", {})
    (run.folder / "lock").write_text("process 7 on elsewhere\n")
    with run.locked():
        assert b'"beat"' in read_bytes(run.folder / "lock")
    assert "lock" not in storage.names(run.folder)


def test_a_bucket_out_of_reach_says_so(connect: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "ATTEMPTS", 2)
    url = connect("http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"cannot reach s3://runs/demo.* after 2 tries .*check network and cred"):
        Run.open(f"{url}/demo")


@pytest.mark.parametrize(
    ("location", "message"), [("ftp://h/runs", "must be a folder or a bucket's URL"), ("gs://b/runs", "effir_dist.gcs")]
)
def test_other_urls(location: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.registry import _registry

    monkeypatch.setitem(sys.modules, "gcsfs", None)  # not installed
    monkeypatch.delitem(_registry, "gs", raising=False)
    with pytest.raises(InputError, match=message):
        place(location)


def test_a_resumed_runs_log_is_appended_to(server: str, connect: Callable[[str], str], tmp_path: Path) -> None:
    path = place(f"{connect(server)}/{tmp_path.name}") / "log"
    for line in ("first", "second"):
        with output_to(path):
            os.write(1, f"{line}\n".encode())
    assert read_bytes(path) == b"first\nsecond\n"


def test_half_a_folder_is_not_left_for_whole(server: str, connect: Callable[[str], str], tmp_path: Path) -> None:
    """An upload that was interrupted leaves whole files or none: the record that makes them count comes last."""
    folder = place(f"{connect(server)}/{tmp_path.name}")

    def write() -> Any:
        with written_locally(folder / "state") as local:
            local.with_name("partial").write_bytes(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write()
    assert storage.names(folder) == []


def test_a_preflight_writes_to_the_bucket_and_leaves_nothing(
    server: str, connect: Callable[[str], str], tmp_path: Path
) -> None:
    runs = place(f"{connect(server)}/{tmp_path.name}")
    with trial.scratch_folder(runs) as scratch:
        asked = Request("host1", config.RunConfig(), storage.absolute(scratch), {}, {}, {}, trial_bytes=1)
        assert node_checks.check_runs_folder(asked) == ""
        assert read_bytes(node_checks.written_by("host1", scratch)) == b"host1"
        assert storage.names(runs) == [scratch.name]
    assert storage.names(runs) == []


def test_a_preflight_says_that_a_bucket_is_not_there(server: str, connect: Callable[[str], str]) -> None:
    connect(server)
    with pytest.raises(InputError, match="there is no bucket for s3://nobodys/runs"):
        trial.scratch_folder(place("s3://nobodys/runs")).__enter__()


def test_a_base_its_teacher_and_full_recoveries_in_a_bucket(
    connect: Callable[[str], str], server: str, collection: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Weights of other trials and a teacher's embeddings are read from there: as on a disk, bit by bit."""
    from effir_dist.search.strategy.recovering import full_recoveries
    from effir_dist.search.trial.preparation import prepare_outside
    from effir_dist.search.trial.trial import run_trial
    from tests.search.test_tuned_base import RECOVERS, pruned_spec, tuned
    from tests.training.test_distillation import make_run
    from tests.training.test_training import quiet

    found = []
    for folder in (f"{connect(server)}/tuned", str(tmp_path / "tuned")):
        own = {**RECOVERS, "train.teacher": str(checkpoints["llama"])}
        run, settings = make_run(collection, checkpoints["llama"], folder, **own)  # type: ignore[arg-type]
        prepare_outside(run, settings)
        tuned(run, settings)
        spec = pruned_spec(run, settings)
        run_trial(run, settings, spec, quiet)
        (again,) = full_recoveries([spec], 3, 0)
        assert run_trial(run, settings, again, quiet).steps == 6
        with read_locally(run.trial_folder(again.trial)) as local:
            found.append(load_encoder(str(local)).encode(["some text"]))
    np.testing.assert_array_equal(*found)

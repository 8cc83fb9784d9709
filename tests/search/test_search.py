"""A real search on a tiny model: real Ray, real DeepSpeed, real processes killed with SIGKILL."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pandas as pd
import psutil
import pytest

from tests import ROOT, needs
from tests.bucket import CREDENTIALS, BadWire, s3_server

OPTIONS = [
    "search.sampler=tpe",
    "search.scheduler=plain",  # tests/search/test_search_rungs.py has the others
    "train.steps=3",
    "train.batch_size=4",
    "model.max_document_length=64",
    "model.max_query_length=32",
    "prune.calibration_texts=4",
]


EXACT = ["train.dtype=float32", "score.dtype=float32"]
"""In bfloat16, which some processors have, another order of sums may turn the places of two passages."""


def start(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    with (cwd / "output").open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "effir_dist.search", *arguments],
            cwd=cwd,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )


def finish(process: subprocess.Popen[str], cwd: Path, code: int = 0, limit: float = 1200) -> str:
    try:
        process.wait(limit)
    finally:
        kill_tree(process)
    output = (cwd / "output").read_text()
    log = "\n".join(p.read_text()[-3000:] for p in cwd.glob("runs/*/*.log"))
    assert process.returncode == code, output + log
    return output


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL the driver and all that it started: Ray's daemons and workers."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGKILL)
    process.wait()


def wait_for(process: subprocess.Popen[str], condition, cwd: Path, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, (cwd / "output").read_text()
        assert time.monotonic() < end, (cwd / "output").read_text()
        time.sleep(0.05)


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text("drop_mlp: {max: 2}\nwidth_ratio: {low: 0.5, high: 1.0, step: 0.25}\n")
    return path


def test_a_search_killed_mid_trial_twice_loses_and_repeats_nothing(
    tmp_path: Path, checkpoints: dict[str, Path], collection: Path, space: Path
) -> None:
    arguments = ["--model", str(checkpoints["bert"]), "--data", str(collection), "--space", str(space)]
    run = tmp_path / "runs" / "mine"
    process = start(tmp_path, *arguments, "--name", "mine", "--trials", "3", *OPTIONS)
    second = run / "trials" / "0001"
    wait_for(process, lambda: (second / "log").exists(), tmp_path)
    process.kill()  # the driver alone, while its worker goes on
    process.wait()
    first = (run / "trials" / "0000" / "result.json").read_bytes()
    lost = json.loads((second / "trial.json").read_text())

    process = start(tmp_path, "--resume", "runs/mine")
    wait_for(process, lambda: (run / "trials" / "0002" / "trial.json").exists(), tmp_path)
    kill_tree(process)
    process = start(tmp_path, "--resume", "runs/mine", "--trials", "4")
    output = finish(process, tmp_path)

    records = [json.loads(p.read_text()) for p in sorted(run.glob("trials/*/result.json"))]
    assert [r["trial"] for r in records] == ["0000", "0001", "0002", "0003"]
    assert {r["state"] for r in records} == {"complete"}
    assert len({r["key"] for r in records}) == 4
    assert (run / "trials" / "0000" / "result.json").read_bytes() == first
    assert records[1]["plan"] == lost["plan"]
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{run / 'study.db'}")
    assert [t.user_attrs["trial"] for t in study.trials] == ["0000", "0001", "0002", "0003"]
    assert {t.state.name for t in study.trials} == {"COMPLETE"}

    front = pd.read_csv(run / "report" / "front.csv", dtype={"trial": str})
    assert front["test_ndcg_at_10"].notna().all()
    assert front["parameters"].is_monotonic_decreasing
    assert len(pd.read_csv(run / "report" / "trials.csv")) == 4
    assert (run / "report" / "front.png").stat().st_size > 10_000
    kept = {p.parent.name for p in run.glob("trials/*/model.safetensors")}
    assert kept == {*front["trial"], "0000"}  # the unpruned model, to compare by
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("trials", [0, 1], ids=["while layers are scored", "while trials run"])
def test_a_search_whose_ray_is_gone_ends_with_a_sentence_and_is_resumed(
    tmp_path: Path, checkpoints: dict[str, Path], collection: Path, space: Path, trials: int
) -> None:
    arguments = ["--model", str(checkpoints["bert"]), "--data", str(collection), "--space", str(space)]
    process = start(tmp_path, *arguments, "--name", "mine", "--trials", "2", *OPTIONS, "train.steps=60")
    run = tmp_path / "runs" / "mine"
    begun = run / ("trials/0000/log" if trials else "importance/log")
    wait_for(process, begun.exists, tmp_path)
    raylet = [p for p in psutil.Process(process.pid).children() if p.name() == "raylet"]
    (raylet,) = raylet
    raylet.kill()
    output = finish(process, tmp_path, code=2)
    assert "Ray's own process on this machine (raylet) is gone" in output.splitlines()[-1]
    finish(start(tmp_path, "--resume", "runs/mine"), tmp_path)
    assert len([*run.glob("trials/*/result.json")]) == 2


@pytest.mark.slow
def test_killed_at_random_moments_two_at_a_time(
    tmp_path: Path, checkpoints: dict[str, Path], collection: Path, space: Path
) -> None:
    arguments = ["--model", str(checkpoints["llama"]), "--data", str(collection), "--space", str(space)]
    options = ["--name", "mine", "--trials", "7", "--max-concurrent", "2", *OPTIONS]
    run, rng = tmp_path / "runs" / "mine", random.Random(0)
    process, seen = start(tmp_path, *arguments, *options), {}
    wait_for(process, (run / "config.yaml").exists, tmp_path)  # before that there is nothing to go on with
    for _ in range(3):
        deadline = time.monotonic() + rng.uniform(6, 22)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        kill_tree(process) if rng.random() < 0.5 else process.kill()
        process.wait()
        records = {p.parent.name: p.read_bytes() for p in run.glob("trials/*/result.json")}
        assert seen.items() <= records.items()
        seen = records
        assert run.is_dir()
        process = start(tmp_path, "--resume", "runs/mine")
    finish(process, tmp_path)
    records = {p.parent.name: json.loads(p.read_text()) for p in run.glob("trials/*/result.json")}
    assert sorted(records) == [f"{i:04d}" for i in range(7)]
    assert len({record["key"] for record in records.values()}) == 7
    assert all((run / "trials" / trial / "result.json").read_bytes() == old for trial, old in seen.items())
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{run / 'study.db'}")
    assert sorted(t.user_attrs["trial"] for t in study.trials) == sorted(records)


@pytest.mark.slow
def test_a_run_that_began_here_goes_on_in_a_bucket(
    tmp_path: Path,
    checkpoints: dict[str, Path],
    collection: Path,
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over a wire on which every tenth request goes wrong."""
    import s3fs

    arguments = ["--model", str(checkpoints["bert"]), "--data", str(collection), "--space", str(space)]
    finish(start(tmp_path, *arguments, "--name", "mine", "--trials", "2", *OPTIONS), tmp_path)
    here = {p.parent.name: p.read_bytes() for p in tmp_path.glob("runs/mine/trials/*/result.json")}
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with s3_server(tmp_path / "s3.log") as server:
        bucket = s3fs.S3FileSystem(endpoint_url=server, use_listings_cache=False)
        bucket.mkdir("runs")
        bucket.put(str(tmp_path / "runs" / "mine"), "runs/mine", recursive=True)
        wire = BadWire(server, share=0.1)
        monkeypatch.setenv("AWS_ENDPOINT_URL", wire.address)
        finish(start(tmp_path, "--resume", "s3://runs/mine", "--trials", "4"), tmp_path)
        wire.close()
        there = {path.split("/")[-2]: bucket.cat(path) for path in bucket.glob("runs/mine/trials/*/result.json")}
        weights = {path.split("/")[-2] for path in bucket.glob("runs/mine/trials/*/model.safetensors")}
        front = pd.read_csv(io.BytesIO(bucket.cat("runs/mine/report/front.csv")), dtype={"trial": str})
    assert sum(wire.faults.values()) > 0
    assert sorted(there) == ["0000", "0001", "0002", "0003"]
    assert here.items() <= there.items()
    assert all(json.loads(record)["state"] == "complete" for record in there.values())
    assert weights == {*front["trial"], "0000"}
    assert front["test_ndcg_at_10"].notna().all()


@pytest.mark.slow
def test_the_time_budget_ends_a_search_that_can_be_resumed(
    tmp_path: Path, checkpoints: dict[str, Path], collection: Path, space: Path
) -> None:
    run = tmp_path / "runs/mine"
    space.write_text("drop_mlp: {max: 2}\nwidth_ratio: {low: 0.0001, high: 1.0, step: 0.0001}\n")
    arguments = ["--model", str(checkpoints["bert"]), "--data", str(collection), "--space", str(space)]
    options = ["--name", "mine", "--trials", "100000", *OPTIONS]
    output = finish(start(tmp_path, *arguments, *options, "--time-budget", "0.01s"), tmp_path, code=2)
    assert "error: no trial of runs/mine finished before its search ended" in output.splitlines()[-1]
    assert "--resume runs/mine --time-budget LONGER" in output.splitlines()[-1]

    for budget in (40, 160, 640):  # what a trial takes on a busy machine nobody knows
        started, process = time.monotonic(), start(tmp_path, "--resume", "runs/mine", "--time-budget", f"{budget}s")
        if process.wait() == 0:
            break
    assert process.returncode == 0
    assert time.monotonic() - started < budget + 240
    assert 1 <= len([*run.glob("trials/*/result.json")]) < 100000
    assert "search.time_budget" in (run / "config.yaml").read_text().split("ended:")[1]


@pytest.mark.slow
def test_a_full_disk_ends_the_search_and_room_lets_it_go_on(
    tmp_path: Path, checkpoints: dict[str, Path], collection: Path, space: Path
) -> None:
    needs.root()
    disk = tmp_path / "runs"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", disk]).returncode:
        needs.lacking("no file system can be mounted here")
    try:
        arguments = ["--model", str(checkpoints["bert"]), "--data", str(collection), "--space", str(space)]
        options = ["--name", "mine", "--trials", "6", "search.keep_weights=all", *OPTIONS]
        output = finish(start(tmp_path, *arguments, *options), tmp_path, code=2)
        assert "error: no space left on" in output.splitlines()[-1]
        assert "--resume" in output.splitlines()[-1]
        done = {p.parent.name: p.read_bytes() for p in disk.glob("mine/trials/*/result.json")}
        assert 0 < len(done) < 6
        subprocess.run(["mount", "-o", "remount,size=30m", disk], check=True)
        finish(start(tmp_path, "--resume", "runs/mine"), tmp_path)
        records = {p.parent.name: p.read_bytes() for p in disk.glob("mine/trials/*/result.json")}
        assert len(records) == 6
        assert done.items() <= records.items()
        assert all(b'"complete"' in record for record in records.values())
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)

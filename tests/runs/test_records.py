"""The run folder: nothing half written is ever read, nothing finished is ever lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from effir_dist.core import config, files
from effir_dist.core.errors import InputError
from effir_dist.core.files import TEMPORARY
from effir_dist.runs import run_folder
from effir_dist.runs.run_folder import Run
from tests import ROOT, needs


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs" / "demo", config.to_dict(config.RunConfig()), {"space": {"max_dropped": 3}})


def python(code: str) -> subprocess.Popen[str]:
    root = ROOT
    return subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)


def test_a_run_comes_back_as_it_was_created(run: Run) -> None:
    again = Run.open(run.folder)
    assert config.from_dict(again.config) == config.RunConfig()
    assert again.extra == {"space": {"max_dropped": 3}}
    assert again.name == "demo"
    assert (again.results(), again.pending(), again.tests(), again.next_number()) == ([], [], {}, 0)


def test_raising_the_number_of_trials_keeps_what_else_was_settled(run: Run) -> None:
    more = config.replace(config.from_dict(run.config), {"search.trials": 30})
    run.write_config(config.to_dict(more))
    assert Run.open(run.folder).config["search"]["trials"] == 30
    assert Run.open(run.folder).extra == {"space": {"max_dropped": 3}}


def test_a_folder_that_exists_is_never_written_into(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already; choose another --name, or go on with --resume"):
        Run.create(run.folder, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="exists already"):
        Run.create(tmp_path / "file", {})


def test_a_start_killed_before_its_configuration_may_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / f"{TEMPORARY}config.yaml-1").write_text("mod")
    assert Run.create(tmp_path / "demo", {"model": {}}).config == {"model": {}}


def test_opening_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run: it has no config.yaml"):
        Run.open(tmp_path)
    with pytest.raises(InputError, match="there is no run folder"):
        Run.open(tmp_path / "nothing")


def test_finished_pending_and_next_number(run: Run) -> None:
    for trial in ("0000", "0002", "0010"):
        run.write_suggestion(trial, {"number": int(trial)})
    run.write_result("0002", {"trial": "0002", "state": "failed"})
    run.write_result("0000", {"trial": "0000", "state": "complete"})
    run.write_test("0000", {"ndcg_at_10": 0.5})
    assert [r["trial"] for r in run.results()] == ["0000", "0002"]
    assert run.pending() == [{"schema": 1, "trial": "0010", "number": 10}]
    assert run.tests() == {"0000": {"schema": 1, "ndcg_at_10": 0.5}}
    assert run.next_number() == 11


def test_trials_sort_by_number_beyond_four_digits(run: Run) -> None:
    for trial in ("10000", "9999"):
        run.write_suggestion(trial, {})
    assert run.trials() == ["9999", "10000"]


def test_the_first_record_stays(run: Run) -> None:
    run.write_result("0000", {"ndcg_at_10": 0.5})
    assert run.write_result("0000", {"ndcg_at_10": 0.4})["ndcg_at_10"] == 0.5


def test_records_hold_plain_json(run: Run) -> None:
    run.write_result("0000", {"a": np.float32(0.5), "b": float("nan"), "c": np.arange(2), "d": Path("x"), "e": (1,)})
    record = run.results()[0]
    assert record == {"schema": 1, "a": 0.5, "b": None, "c": [0, 1], "d": "x", "e": [1]}


def test_a_record_of_a_newer_version(run: Run) -> None:
    files.write_json_atomic(run.trial_folder("0003") / "result.json", {"schema": 99})
    with pytest.raises(InputError, match=r"0003/result.json was written by a newer version .*schema 99"):
        run.results()


def test_a_record_that_somebody_broke(run: Run) -> None:
    run.trial_folder("0003").mkdir(parents=True)
    (run.trial_folder("0003") / "result.json").write_text('{"trial": ')
    with pytest.raises(InputError, match=r"0003/result.json is not a record"):
        run.results()


def test_killed_between_writing_and_renaming_leaves_no_record(run: Run) -> None:
    run.write_suggestion("0000", {"number": 0})
    code = f"""
import os, signal
from effir_dist.runs.run_folder import Run
os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
Run.open({str(run.folder)!r}).write_result("0000", {{"state": "complete"}})
"""
    assert python(code).wait(60) == -signal.SIGKILL
    left = [p.name for p in run.trial_folder("0000").iterdir()]
    assert any(name.startswith(TEMPORARY) for name in left), "the kill came too early to prove anything"
    assert run.results() == []
    assert len(run.pending()) == 1
    with run.locked():
        assert [p.name for p in run.trial_folder("0000").iterdir()] == ["trial.json"]


def test_an_unfinished_trial_starts_from_its_suggestion_alone(run: Run) -> None:
    run.write_suggestion("0000", {"number": 0})
    (run.trial_folder("0000") / "model.safetensors").write_bytes(b"half")
    (run.trial_folder("0000") / "checkpoint").mkdir()
    run.clear_pending("0000")
    run.clear_pending("0001")
    assert [p.name for p in run.trial_folder("0000").iterdir()] == ["trial.json"]


def test_a_finished_trial_is_never_cleared(run: Run) -> None:
    run.write_result("0000", {"state": "complete"})
    (run.trial_folder("0000") / "model.safetensors").write_bytes(b"whole")
    run.clear_pending("0000")
    assert (run.trial_folder("0000") / "model.safetensors").exists()
    run.remove_weights("0000")
    assert [p.name for p in run.trial_folder("0000").iterdir()] == ["result.json"]


def test_one_driver_at_a_time(run: Run) -> None:
    with run.locked():
        message = f"is being searched by process {os.getpid()} on .*; wait for it, stop it, or choose another --name"
        with pytest.raises(InputError, match=message), Run.open(run.folder).locked():
            pass
    with run.locked():
        pass


def test_a_killed_driver_holds_no_lock(run: Run) -> None:
    code = f"""
import time
from effir_dist.runs.run_folder import Run
with Run.open({str(run.folder)!r}).locked():
    print("held", flush=True)
    time.sleep(60)
"""
    driver = python(code)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {driver.pid} on"), run.locked():
        pass
    driver.kill()
    driver.wait(60)
    with run.locked():
        pass


def test_errors_of_the_driver_are_not_blamed_on_the_lock(run: Run) -> None:
    with pytest.raises(OSError, match="elsewhere"), run.locked():
        raise OSError(28, "elsewhere")


def test_queries_come_back_exactly(run: Run) -> None:
    metrics = {"ndcg_at_10": 1 / 3, "recall_at_100": 1.0, "mrr_at_10": 0.1 + 0.2}
    scores = {"a, b": {'say "hi"': metrics, "π": metrics}, "c": {"1": metrics}}
    run_folder.write_queries(run.queries_path("0000"), scores)
    assert run_folder.read_queries(run.queries_path("0000")) == scores
    assert run.queries_path("0000", "test").name == "test_queries.csv"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        needs.lacking(f"needs a right to mount a tmpfs: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_says_so_and_leaves_the_old_file(tiny_disk: Path) -> None:
    run = Run.create(tiny_disk / "demo", {"model": {}})
    run.write_result("0000", {"state": "complete"})
    with pytest.raises(InputError, match=r"no space left on .*/0001 while writing result.json; .*--resume .*/demo\)"):
        run.write_result("0001", {"state": "complete", "log": "x" * 100_000})
    files.write_text_atomic(run.folder / "note", "old")
    with pytest.raises(InputError, match="no space left"):
        files.write_text_atomic(run.folder / "note", "x" * 100_000)
    assert (run.folder / "note").read_text() == "old"
    assert not list(run.folder.rglob(f"{TEMPORARY}*"))
    assert [r["state"] for r in run.results()] == ["complete"]


def test_a_folder_that_may_not_be_written(tiny_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(InputError, match=r"cannot write .*config.yaml: Read-only file system"):
        Run.create(tiny_disk / "demo", {"model": {}})

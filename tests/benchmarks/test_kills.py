"""Kills of real searches, on a disk and in a bucket; and that the benchmark would see what must not happen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kills.search import Faults
from tests import ROOT


@pytest.mark.slow
def test_kills_cost_no_finished_record(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.kills", str(tmp_path / "kills"), "--kills", "2", "--lease", "10"]
    known = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=known)
    assert found.returncode == 0, found.stdout + found.stderr[-3000:]
    last = found.stdout.splitlines()[-1]
    assert last.startswith("2 kills (")
    assert "1 of them in a bucket" in last
    assert "0 of them not with 6 records" in last
    assert last.endswith("finished records lost 0, changed 0, trained twice 0")


RECORD = {"0001/result.json": b'{"key": "a"}'}


def rungs(*scores: float) -> dict[str, bytes]:
    return {"0001/rungs.json": json.dumps({"rungs": [{"ndcg_at_10": score} for score in scores]}).encode()}


@pytest.mark.parametrize(
    ("before", "after", "lost", "changed"),
    [
        (RECORD, RECORD, 0, 0),
        ({}, RECORD, 0, 0),
        (RECORD, {}, 1, 0),
        (RECORD, {"0001/result.json": b"{}"}, 0, 1),
        (rungs(0.1), rungs(0.1, 0.2), 0, 0),
        (rungs(0.1, 0.2), rungs(0.1), 1, 0),
        (rungs(0.1, 0.2), rungs(0.3, 0.2), 0, 1),
        (rungs(0.1), {}, 1, 0),
    ],
)
def test_what_is_lost_or_changed_is_seen(
    before: dict[str, bytes], after: dict[str, bytes], lost: int, changed: int
) -> None:
    faults = Faults()
    faults.compare(before, after)
    assert (len(faults.lost), len(faults.changed)) == (lost, changed)


@pytest.mark.parametrize(
    ("journal", "records", "twice"),
    [
        (["begin 0001 top open", "begin 0001 top open", "end 0001 top"], RECORD, set()),
        (["begin 0001 0 open", "end 0001 0", "begin 0001 1 open", "end 0001 1"], {}, set()),
        (["begin 0001 0 open", "begin 0001 0 open", "end 0001 0", "end 0001 0"], {}, {"0001 rung 0"}),
        (["begin 0001 top scored"], RECORD, {"0001 rung top"}),
        ([], {**RECORD, "0002/result.json": b'{"key": "a"}'}, {"key a"}),
    ],
)
def test_what_is_trained_twice_is_seen(journal: list[str], records: dict[str, bytes], twice: set[str]) -> None:
    faults = Faults()
    faults.read_journal(journal, records)
    assert faults.twice == twice

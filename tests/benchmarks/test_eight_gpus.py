"""The script for a machine of eight GPUs, on two ranks of a CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import eight_gpus
from benchmarks.speed import report
from effir_dist.core.files import read_json
from tests import ROOT

PARTS = (
    "random weights made and written",
    "loaded by every rank",
    "2 steps, ZeRO 3, checkpointing, chunks of 2",
    "scored by 2 ranks",
    "saved",
    "loaded on one GPU",
    "embeddings of the two beside each other",
    "scored on one GPU",
)


def rows_of_a_run(folder: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.eight_gpus", "--small", "--ranks", "2"]
    subprocess.run([*command, "--folder", str(folder), "--out", str(folder / "speed")], cwd=ROOT, check=True)
    found: list[dict[str, Any]] = read_json(folder / "speed" / "eight-gpus.json")["rows"]
    return found


def test_a_part_that_fails_is_a_row_whichever_rank_it_fails_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    measuring = eight_gpus.Measuring(eight_gpus.parser().parse_args(["--small", "--out", str(tmp_path)]))
    with measuring.part("scored by 2 ranks"):
        pass
    with pytest.raises(RuntimeError), measuring.part("saved"):
        raise RuntimeError("CUDA out of memory")
    (row,) = read_json(tmp_path / "eight-gpus.json")["rows"]
    assert (row["name"], row["failed"]) == ("saved", {"all": "rank 1: RuntimeError: CUDA out of memory"})
    assert ": saved (rank 1: RuntimeError: CUDA out of memory)" in report.render(tmp_path)


@pytest.mark.slow
def test_a_narrow_model_on_two_ranks_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    rows = rows_of_a_run(tmp_path)
    assert [row["name"] for row in rows] == [*PARTS]
    assert not any(row["failed"] for row in rows)
    facts = {row["name"]: row["facts"] for row in rows}
    assert facts[PARTS[-1]]["nDCG@10"] == pytest.approx(facts["scored by 2 ranks"]["nDCG@10"], abs=0.5)
    assert all(part in (tmp_path / "speed.md").read_text() for part in PARTS)

    (weights,) = tmp_path.glob("mistral*/model.safetensors")
    written = weights.stat().st_mtime_ns
    again = rows_of_a_run(tmp_path)
    assert weights.stat().st_mtime_ns == written
    assert {row["name"] for row in again if row not in rows} == {*PARTS[-3:]}

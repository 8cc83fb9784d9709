"""The comparison with sentence-transformers: a row a retriever, written as it goes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import retrievers
from effir_dist.core.errors import InputError
from tests import needs
from tests.sentence_folders import made

needs.module("sentence_transformers")


def absent(scratch: Path) -> str:
    raise InputError("its package is missing")


def test_each_retriever_has_a_row_and_one_that_is_missing_a_sentence(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = retrievers.Made("two Dense layers", lambda scratch: str(made(scratch, "dense, dot")))
    monkeypatch.setattr(retrievers, "RETRIEVERS", {"dense": here, "gone": retrievers.Made("gone", absent)})
    out = tmp_path / "report.md"
    arguments = argparse.Namespace(data=[str(collection)], split="test", queries=0, documents=0, out=out)
    arguments.only = "other"
    with pytest.raises(InputError, match="--only names 'other'; known: dense, gone"):
        retrievers.run(arguments)
    arguments.only = "gone,dense"
    for _ in range(2):
        retrievers.run(arguments)
    assert "gone: left out, its package is missing" in capsys.readouterr().out
    (row,) = json.loads(out.with_suffix(".json").read_text())["rows"]
    assert row["ours"] == pytest.approx(row["theirs"], abs=1e-6)
    assert row["cosine"] > 1 - 1e-5
    assert f"| `dense` (dot) | {row['dataset']} | {row['of']} | {100 * row['ours']:.2f} |" in out.read_text()
    row = {**row, "theirs": row["ours"] + 2e-4}
    assert "| -0.0200 | no |" in retrievers.render([row])

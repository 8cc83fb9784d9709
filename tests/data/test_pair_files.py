"""Pairs and triples as sentence-transformers' data sets have them: JSON lines and parquet become training data."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from effir_dist.core.errors import InputError
from effir_dist.core.settings import DataConfig
from effir_dist.data import beir, sets
from effir_dist.data.pairs import TrainingPairs, check, training_pairs
from tests.tiny import write_collection

Row = dict[str, Any]
TRIPLES: list[Row] = [
    {"anchor": "what is red", "positive": "a colour", "negative_1": "a fruit", "negative_2": "a car"},
    {"anchor": "what is a pear", "positive": "a fruit", "negative_1": "a colour", "negative_2": "a car"},
    {"anchor": "what is red", "positive": "a colour", "negative_1": "a car", "negative_2": "a boat"},
    {"anchor": "What is red?", "positive": "a boat", "negative_1": "a pear", "negative_2": None},
]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def jsonl(file: Path, rows: Sequence[Row]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def parquet(file: Path, rows: Sequence[Row]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file


def trained_on(file: Path | str, scored: Path, **more: Any) -> DataConfig:
    return DataConfig(paths=(str(scored),), train_paths=(str(file),), **more)


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """What evaluates."""
    return write_collection(tmp_path / "scored")


def columns(pairs: TrainingPairs) -> list[tuple[str, str, list[str]]]:
    return [*zip(pairs.queries, pairs.positives, map(list, pairs.negatives), strict=True)]


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_rows_become_pairs_with_their_negatives(write: Any, tmp_path: Path, scored: Path) -> None:
    """Equal texts are one; what answers a query in another row, or the same text under another spelling, is none of its
    negatives."""
    data = trained_on(write(tmp_path / f"triples.{write.__name__}", TRIPLES), scored)
    assert check(data) == []
    pairs = training_pairs(data, 0)
    assert columns(pairs) == [
        ("what is red", "a colour", ["a fruit", "a car"]),
        ("what is a pear", "a fruit", ["a colour", "a car"]),
        ("What is red?", "a boat", ["a pear"]),
    ]
    assert pairs.answers["what is red"] == ["a colour", "a boat"]
    assert all(math.isnan(score) for scores in pairs.scores for score in scores)
    assert sets.dataset_name(data.train_paths[0]) == "triples"


@pytest.mark.parametrize(
    "names", [("query", "answer"), ("question", "positive"), ("anchor", "answer"), ("title", "abstract")]
)
def test_pairs_by_the_names_of_their_columns_or_by_their_order(
    names: tuple[str, str], tmp_path: Path, scored: Path
) -> None:
    rows = [dict(zip(names, texts, strict=True)) for texts in (("q one", "p one"), ("q two", " p two "))]
    pairs = training_pairs(trained_on(jsonl(tmp_path / "pairs.jsonl", rows), scored), 0)
    assert columns(pairs) == [("q one", "p one", []), ("q two", "p two", [])]


def test_scores_are_distilled_with_their_passages(tmp_path: Path, scored: Path) -> None:
    rows = [
        {"query": "q one", "positive": "p one", "negative": ["n one", "n two"], "scores": [9, 2.5, 1]},
        {"query": "q two", "positive": "p two", "negative": "n one", "scores": [8, 3]},
    ]
    data = trained_on(jsonl(tmp_path / "scored.jsonl", rows), scored)
    check(data, need_scores=True)
    assert training_pairs(data, 0).scores == [[9, 2.5, 1], [8, 3]]
    less = trained_on(jsonl(tmp_path / "less.jsonl", [*rows, {"query": "q", "positive": "p"}]), scored)
    with pytest.raises(InputError, match=r"has no score for 1 of 6 training passages, the first query '2' with docum"):
        check(less, need_scores=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q", "positive": ""}, "'positive' must be a text that is not empty, got ''"),
        ({"query": 3, "positive": "p"}, "'query' must be a text that is not empty, got 3"),
        ({"query": "q", "positive": "p", "negative_2": 1}, "'negative_2' must be a text that is not empty, got 1"),
        ({"premise": "q", "hypothesis": "p", "label": 1}, "has the columns premise, hypothesis, label; it needs"),
        ({"anchor": "q", "positive": "p", "label": 1}, "'label' tells positives from others; take pairs that are all"),
        ({"query": "q", "positive": "p", "negative": "n", "score": 3}, "'score' must be a list of 2 numbers"),
        ({"query": "q", "positive": "p", "score": "high"}, "'score' must hold numbers, or null where there is none"),
    ],
)
def test_a_bad_row_is_named_with_its_column(row: Row, message: str, tmp_path: Path, scored: Path) -> None:
    good = {"query": "fine", "positive": "fine too"}
    file = jsonl(tmp_path / "bad.jsonl", [good, row])
    file.write_text(file.read_text().replace("\n", "\n\n", 1))  # a blank line counts
    with pytest.raises(InputError) as error:
        check(trained_on(file, scored))
    assert f"{file}:3" in str(error.value)
    assert message in str(error.value)
    table = parquet(tmp_path / "bad.parquet", [row])
    with pytest.raises(InputError) as error:
        check(trained_on(table, scored))
    assert f"{table}: row 1" in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "holds no row; a row holds a query"),
        ("a.jsonl", b'{"query": "q"', "a.jsonl:1 is not valid JSON"),
        ("a.jsonl", b'{"query": "\xff"}', "a.jsonl:1 is not UTF-8"),
        ("a.parquet", b"PAR1 and no more", "is not a readable parquet file"),
    ],
)
def test_files_that_are_none(name: str, content: bytes, message: str, tmp_path: Path, scored: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        check(trained_on(tmp_path / name, scored))
    with pytest.raises(InputError, match=r"the data file '.*gone.jsonl' does not exist"):
        check(trained_on(tmp_path / "gone.jsonl", scored))


def test_no_query_that_evaluates_is_trained_on(tmp_path: Path, scored: Path) -> None:
    asked = beir.read_queries(scored / "queries.jsonl")
    test, dev = ([*beir.read_qrels(scored / "qrels" / f"{split}.tsv")] for split in ("test", "dev"))
    texts = [asked[test[0]].upper(), asked[dev[0]] + "?", "another one"]
    file = jsonl(tmp_path / "pairs.jsonl", [{"query": text, "positive": f"answer {i}"} for i, text in enumerate(texts)])
    data = trained_on(file, scored)
    assert check(data) == [
        "pairs: 1 training query left out, as the text is a test query too",
        "pairs: 1 training query left out, as the text is a search query too",
    ]
    assert [*training_pairs(data, 0).queries] == ["another one"]


def test_a_sample_and_memory_maps(tmp_path: Path, scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"query": f"query {i}", "positive": f"passage {i}", "negative": f"passage {rng.integers(900)}"}
        for i in range(300)
    ]
    file = parquet(tmp_path / "many.parquet", rows)
    small, whole = (columns(training_pairs(trained_on(file, scored, max_train_pairs=n), 0)) for n in (50, 0))
    assert (len(small), len(whole)) == (50, 300)
    assert set(map(str, small)) < set(map(str, whole))
    monkeypatch.setattr(beir, "MAPPED_BYTES", 1)
    beir._cached.cache_clear()
    same = shutil.copy(file, tmp_path / "same.parquet")  # of which nothing is in this process's memory
    again = training_pairs(trained_on(same, scored), 0)
    assert type(again.queries).__name__ == "Strings"
    assert columns(again) == whole
    beir._cached.cache_clear()


def test_it_is_read_once_and_another_content_is_another_set(
    tmp_path: Path, scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = jsonl(tmp_path / "pairs.jsonl", TRIPLES)
    first = sets.fingerprint(str(file))["sha256"]
    assert sets.fingerprint(str(file))["sha256"] == first
    assert capsys.readouterr().err.count("reading the training pairs of") == 1
    jsonl(file, TRIPLES[:2])
    assert sets.fingerprint(str(file))["sha256"] != first
    assert len(training_pairs(trained_on(file, scored), 0).queries) == 2

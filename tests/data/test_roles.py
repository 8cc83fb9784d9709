"""Roles of data sets and queries: what trains, what steers, what tests; and that no text has two of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from effir_dist.core.errors import InputError
from effir_dist.core.settings import DataConfig
from effir_dist.data import roles
from effir_dist.data.pairs import check, training_pairs
from effir_dist.training import negatives
from tests.data.test_data import config, make, without_dev, write_json, write_qrels


def repeat(folder: Path, texts: dict[str, str]) -> None:
    """Add queries (id -> text) to a folder of `make`."""
    own = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(30)]
    write_json(folder / "queries.jsonl", own + [{"_id": i, "text": text} for i, text in texts.items()])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "set")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is nDCG?", "  what IS\tndcg "),
        ("ﬁne-tuning", "Fine-tuning."),  # a ligature
        ("Straße", "STRASSE"),
        ("“how to reset it”", "how to reset it…"),
        ("cafe\u0301", "café"),
    ],
)
def test_the_same_text(one: str, other: str) -> None:
    assert roles.normalised(one) == roles.normalised(other)
    assert roles.normalised(roles.normalised(one)) == roles.normalised(one)


@pytest.mark.parametrize(("one", "other"), [("what is C#", "what is C"), ("a, b", "a b"), ("?", "!"), ("one", "two")])
def test_another_text(one: str, other: str) -> None:
    assert roles.normalised(one) != roles.normalised(other)


def test_test_queries_under_other_ids_do_not_train(tmp_path: Path) -> None:
    """18 of 20 test queries are in the training split under other ids, with other answers too."""
    folder = make(tmp_path / "set", documents=60, queries=60, splits={})
    texts = {f"t{i}": f"Query  {i}?" if i % 2 else f"query {i}" for i in range(18)}
    own = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(60)]
    write_json(folder / "queries.jsonl", own + [{"_id": i, "text": text} for i, text in texts.items()])
    write_qrels(folder, "test", [(f"q{i}", f"d{i}", 1) for i in range(20)])
    write_qrels(folder, "dev", [(f"q{i}", f"d{i}", 1) for i in range(40, 50)])
    write_qrels(folder, "train", [*((t, f"d{50 + i % 9}", 1) for i, t in enumerate(texts)), ("q20", "d20", 1)])
    data = config(folder)
    assert check(data) == ["set: 18 training queries left out, as the text is a test query too"]
    assert training_pairs(data, 0).queries == ["query 20"]
    assert len(roles.test_collection(str(folder), data, 0).queries) == 20


def test_search_queries_are_no_test_queries(folder: Path) -> None:
    repeat(folder, {"t1": "Query 25", "t2": "query 21!"})
    write_qrels(folder, "dev", [(f"q{i}", f"d{i}", 1) for i in range(20, 25)] + [("t1", "d3", 1)])
    write_qrels(folder, "train", [("q1", "d1", 1), ("t2", "d2", 1)])
    data = config(folder)
    assert roles.search_collection(str(folder), data, 0).query_ids == [f"q{i}" for i in range(20, 25)]
    assert roles.left_out(data, 0) == [
        roles.LeftOut("set", "search", "test", 1),
        roles.LeftOut("set", "training", "search", 1),
    ]
    write_qrels(folder, "dev", [("t1", "d3", 1)])
    with pytest.raises(InputError, match="every query of 'dev' is also a query of 'test'"):
        check(data)


def test_all_ids_of_a_text_are_set_aside_together(folder: Path) -> None:
    repeat(folder, {f"t{i}": f"QUERY {i}." for i in range(20)})
    rows = [(f"{name}{i}", f"d{i}", 1) for i in range(20) for name in "qt"]
    write_qrels(without_dev(folder), "train", rows)
    data = config(folder, search_share=0.25)
    search, pairs = roles.search_collection(str(folder), data, 3), training_pairs(data, 3)
    assert len(search.queries) == 10
    assert len(pairs.queries) == 30
    assert not {*map(roles.normalised, search.queries)} & {*map(roles.normalised, pairs.queries)}
    assert roles.left_out(data, 3) == []
    once = {f"q{i}": f"query {i}" for i in range(20)}
    assert roles.set_aside(once, 0.25, 3) == {q for q in search.query_ids if q.startswith("q")}


def test_no_text_crosses_data_sets(folder: Path, tmp_path: Path) -> None:
    """The queries of both folders are the same, each in another split; the second has no split for the search."""
    rows = [(f"q{i}", f"d{i}", 1) for i in range(30)]
    other = make(tmp_path / "other", splits={"train": rows, "test": rows[3:4]})
    data = config(folder, other, search_share=0.5)
    pairs, paths = training_pairs(data, 0), data.paths
    scored = [read(path, data, 0) for read in (roles.search_collection, roles.test_collection) for path in paths]
    assert all(not {*each.queries} & {*pairs.queries} for each in scored)
    assert not {*scored[1].queries} & {f"query {i}" for i in (3, *range(20, 30))}
    assert roles.LeftOut("other", "training", "test", 6) in roles.left_out(data, 0)


def trained_apart(folder: Path, tmp_path: Path, **settings: Any) -> tuple[DataConfig, Path]:
    train = make(tmp_path / "big", splits={"train": [(f"q{i}", f"d{i}", 1) for i in range(10, 30)]})
    return config(folder, train_paths=(str(train),), **settings), train


def test_train_paths_are_trained_on_alone(folder: Path, tmp_path: Path) -> None:
    data, train = trained_apart(folder, tmp_path)
    assert data.trained == (str(train),)
    assert data.searched == (str(folder), str(train))
    assert training_pairs(data, 0).queries == [f"query {i}" for i in range(10, 20)]
    assert check(data) == [
        "big: 5 training queries left out, as the text is a test query too",
        "big: 5 training queries left out, as the text is a search query too",
    ]
    both = trained_apart(folder, tmp_path, train_on_scored=True)[0]
    assert both.trained == (str(train), str(folder))
    assert len(training_pairs(both, 0).queries) == 10 + 20


def test_nothing_is_trained_on_where_that_is_asked(folder: Path) -> None:
    data = config(folder, train_on_scored=False)
    assert check(data) == []
    assert training_pairs(data, 0).queries == []


def test_a_set_of_train_paths_has_the_training_split(folder: Path, tmp_path: Path) -> None:
    only = make(tmp_path / "only", splits={"test": [("q1", "d1", 1)]})
    with pytest.raises(InputError, match="only has no split 'train', only: test"):
        check(config(folder, train_paths=(str(only),)))


def test_held_out_queries_that_trained_or_steered_are_not_scored(folder: Path, tmp_path: Path) -> None:
    held = make(tmp_path / "held", splits={"test": [(f"q{i}", f"d{i}", 1) for i in (3, 22, 26, 28)]})
    data = config(folder, held_out=(str(held),))
    found, lost = roles.held_out_collection(str(held), data, 0)
    assert found.query_ids == ["q26", "q28"]  # test queries of the search's data neither trained nor steered
    assert lost == roles.LeftOut("held", "held-out", "training or search", 2)
    write_qrels(held, "test", [("q3", "d3", 1)])
    with pytest.raises(InputError, match="every query of the held-out .* trained or steered"):
        roles.held_out_collection(str(held), data, 0)


def test_limits_are_asked_for(folder: Path, tmp_path: Path) -> None:
    """Those of the search hold for no test query and no held-out one."""
    held = make(tmp_path / "held", queries=40, splits={"test": [(f"q{i}", f"d{i % 30}", 1) for i in range(30, 40)]})
    data = config(folder, max_queries=2, max_documents=6)
    assert str(roles.search_collection(str(folder), data, 0).size) == "2 of 5 queries, 6 of 30 documents"
    tested = roles.test_collection(str(folder), data, 0).size
    assert (tested.queries, tested.documents, tested.cut) == (5, 30, False)
    assert str(roles.held_out_collection(str(held), data, 0)[0].size) == "10 queries, 30 documents"
    limits = {f"max_{of}_{what}": 3 for of in ("test", "held_out") for what in ("queries", "documents")}
    asked = config(folder, **limits)
    assert str(roles.test_collection(str(folder), asked, 0).size) == "3 of 5 queries, 3 of 30 documents"
    assert str(roles.held_out_collection(str(held), asked, 0)[0].size) == "3 of 10 queries, 3 of 30 documents"


def test_what_answers_the_text_of_a_query_is_no_negative_of_it(folder: Path) -> None:
    repeat(folder, {"t1": "QUERY 1"})
    write_qrels(folder, "train", [("q1", "d1", 1), ("t1", "d2", 1), ("q3", "d3", 1)])
    write_json(folder / "negatives" / "train.jsonl", [{"query": "q1", "negative": ["d2", "d9"]}])
    pairs = training_pairs(config(folder), 0)
    assert pairs.answers == {"query 1": ["T1 x1", "T2 x2"], "QUERY 1": ["T1 x1", "T2 x2"], "query 3": ["T3 x3"]}
    assert pairs.negatives == [["T9 x9"], [], []]


def test_no_answer_of_the_text_is_mined(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repeat(folder, {"t1": "query 1?"})
    write_qrels(folder, "train", [("q1", "d1", 1), ("t1", "d2", 1)])
    monkeypatch.setattr("sys.argv", ["negatives", "--data", str(folder), "--count", "29", "--max-share", "1"])
    negatives.main()
    lines = [json.loads(line) for line in (folder / "negatives" / "train.jsonl").read_text().splitlines()]
    assert [line["positive"] for line in lines] == [["d1", "d2"], ["d2", "d1"]]
    assert all(not {"d1", "d2"} & {*line["negative"]} for line in lines)

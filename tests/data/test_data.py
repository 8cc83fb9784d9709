"""Data folders: loading, splitting, sampling, every bad input; and token arrays."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effir_dist.core.errors import InputError
from effir_dist.core.settings import DataConfig
from effir_dist.data import beir, roles, sets
from effir_dist.data.pairs import check, check_training, training_pairs
from effir_dist.models.tokens import Tokens, tokenize
from tests import needs

Rows = list[tuple[str, str, int]]


def write_lines(file: Path, lines: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def write_json(file: Path, records: list[dict[str, Any]]) -> None:
    write_lines(file, [json.dumps(record) for record in records])


def write_qrels(folder: Path, split: str, rows: Rows) -> None:
    write_lines(
        folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t{s}" for q, d, s in rows)]
    )


def make(
    folder: Path, documents: int = 30, queries: int = 30, splits: dict[str, Rows] | None = None, asks: str = "query"
) -> Path:
    """Documents d0.., queries q0..; by default q0-q19 train, q20-q24 dev, q25-q29 test, each relevant to its number."""
    write_json(folder / "corpus.jsonl", [{"_id": f"d{i}", "title": f"T{i}", "text": f"x{i}"} for i in range(documents)])
    write_json(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"{asks} {i}"} for i in range(queries)])
    ranges = {"train": range(20), "dev": range(20, 25), "test": range(25, 30)}
    default: dict[str, Rows] = {name: [(f"q{i}", f"d{i}", 1) for i in numbers] for name, numbers in ranges.items()}
    for split, rows in (default if splits is None else splits).items():
        write_qrels(folder, split, rows)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "set")


def without_dev(folder: Path) -> Path:
    (folder / "qrels" / "dev.tsv").unlink()
    return folder


def config(*folders: Path, **settings: Any) -> DataConfig:
    return DataConfig(paths=tuple(str(f) for f in folders), **settings)


# Loading


def test_a_split_in_the_order_of_its_files(folder: Path) -> None:
    found = sets.load_collection(str(folder), "test")
    assert (found.name, found.split, found.ignore_identical_ids) == ("set", "test", False)
    assert found.document_ids == [f"d{i}" for i in range(30)]
    assert found.documents[3] == "T3 x3"
    assert found.query_ids == [f"q{i}" for i in range(25, 30)]
    assert found.queries[0] == "query 25"
    assert found.qrels == {f"q{i}": {f"d{i}": 1} for i in range(25, 30)}


def test_titles_may_be_missing_or_none(folder: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"_id": "d25", "text": " a "},
        {"_id": "d26", "title": None, "text": "b"},
        {"_id": 7, "title": "c", "text": ""},
    ]
    write_json(folder / "corpus.jsonl", lines)
    found = sets.load_collection(str(folder), "test")
    assert found.documents == ["a", "b", "c"]
    assert found.document_ids == ["d25", "d26", "7"]


def test_grades_of_zero_stay_but_judge_no_query(tmp_path: Path) -> None:
    rows = [("q1", "d1", 2), ("q1", "d2", 0), ("q1", "d3", -1), ("q2", "d2", 0)]
    found = sets.load_collection(str(make(tmp_path / "set", splits={"test": rows})), "test")
    assert found.query_ids == ["q1"]
    assert found.qrels == {"q1": {"d1": 2, "d2": 0, "d3": -1}}


def test_a_split_may_have_its_own_folder(tmp_path: Path) -> None:
    for split, size in (("train", 9), ("dev", 5), ("test", 7)):
        make(tmp_path / "set" / split, size, size, {split: [("q1", "d1", 1), ("q2", "d2", 1)]})
        write_json(
            tmp_path / "set" / split / "queries.jsonl", [{"_id": f"q{i}", "text": f"{split} {i}"} for i in range(9)]
        )
    path, settings = str(tmp_path / "set"), config(tmp_path / "set")
    assert check(settings) == []
    assert len(roles.search_collection(path, settings, 0).documents) == 5
    assert len(roles.test_collection(path, settings, 0).documents) == 7
    # The same ids in other folders are other queries.
    assert training_pairs(settings, 0).queries == ["train 1", "train 2"]
    assert len(beir.content_files(tmp_path / "set")) == 9


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("set", None, False),
        ("ArguAna", None, True),
        ("quora", None, True),
        ("quora", {"ignore_identical_ids": False}, False),
        ("set", {"ignore_identical_ids": True}, True),
    ],
)
def test_identical_ids(tmp_path: Path, name: str, settings: dict[str, bool] | None, expected: bool) -> None:
    make(tmp_path / name)
    if settings is not None:
        write_json(tmp_path / name / "dataset.json", [settings])
    assert sets.load_collection(str(tmp_path / name), "test").ignore_identical_ids is expected


def test_samples_are_seeded_and_keep_order_and_judged_documents(folder: Path) -> None:
    found = sets.load_collection(str(folder), "train", max_queries=6, max_documents=10, seed=3)
    assert found == sets.load_collection(str(folder), "train", max_queries=6, max_documents=10, seed=3)
    assert found.query_ids != sets.load_collection(str(folder), "train", max_queries=6, seed=4).query_ids
    assert len(found.query_ids) == 6
    assert len(found.document_ids) == len(found.documents) == 10
    assert {d for grades in found.qrels.values() for d in grades} < set(found.document_ids)
    for ids in (found.query_ids, found.document_ids):
        assert ids == sorted(ids, key=lambda name: int(name[1:]))


def test_all_judged_documents_stay_where_they_are_more_than_the_limit(folder: Path) -> None:
    found = sets.load_collection(str(folder), "test", max_documents=2)
    assert found.document_ids == ["d25", "d26", "d27", "d28", "d29"]


# Search, test and training


def test_the_search_split_scores_the_search(folder: Path) -> None:
    settings = config(folder)
    assert roles.search_collection(str(folder), settings, 0).query_ids == [f"q{i}" for i in range(20, 25)]
    assert roles.test_collection(str(folder), settings, 0).query_ids == [f"q{i}" for i in range(25, 30)]
    assert training_pairs(settings, 0).queries == [f"query {i}" for i in range(20)]


def test_without_a_search_split_a_share_of_the_training_is_held_out(folder: Path) -> None:
    settings = config(without_dev(folder), search_share=0.25)
    search, pairs = roles.search_collection(str(folder), settings, 5), training_pairs(settings, 5)
    assert len(search.queries) == 5
    assert len(pairs.queries) == 15
    assert len(search.documents) == 30
    assert not set(search.queries) & set(pairs.queries)
    assert search.split == "train (held out)"
    assert search.query_ids != roles.search_collection(str(folder), settings, 6).query_ids


def test_who_is_held_out_does_not_depend_on_order_or_limits(folder: Path) -> None:
    settings = config(without_dev(folder), search_share=0.3)
    before = roles.search_collection(str(folder), settings, 0)
    write_qrels(folder, "train", [(f"q{i}", f"d{i}", 1) for i in reversed(range(20))])
    assert set(roles.search_collection(str(folder), settings, 0).query_ids) == set(before.query_ids)
    limited = config(folder, search_share=0.3, max_queries=2)
    assert len(roles.search_collection(str(folder), limited, 0).query_ids) == 2
    assert not set(training_pairs(limited, 0).queries) & set(before.queries)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_training_leaves_out_queries_that_score(folder: Path, split: str) -> None:
    write_qrels(folder, split, [("q3", "d3", 1), ("q28", "d28", 1)])
    pairs = training_pairs(config(folder), 0)
    assert len(pairs.queries) == 19
    assert "query 3" not in pairs.queries


def test_the_training_split_never_scores_whole(folder: Path) -> None:
    settings = config(folder, search_split="train")
    search, pairs = roles.search_collection(str(folder), settings, 0), training_pairs(settings, 0)
    assert len(search.queries) == 2
    assert len(pairs.queries) == 18


def test_a_pair_for_each_relevant_document(folder: Path) -> None:
    write_qrels(folder, "train", [("q1", "d1", 1), ("q1", "d2", 0), ("q2", "d5", 1), ("q1", "d3", 2)])
    pairs = training_pairs(config(folder), 0)
    assert pairs.queries == ["query 1", "query 1", "query 2"]
    assert pairs.positives == ["T1 x1", "T3 x3", "T5 x5"]
    assert pairs.negatives == [[], [], []]


def test_training_pairs_of_several_sets_are_sampled_each(folder: Path, tmp_path: Path) -> None:
    rows: dict[str, Rows] = {"test": [("q1", "d1", 1)], "train": [("q2", "d2", 1), ("q3", "d3", 1)]}
    other = make(tmp_path / "other", splits=rows, asks="what")
    only_test = make(tmp_path / "only", splits={"dev": [("q1", "d1", 1)], "test": [("q2", "d2", 1)]}, asks="who")
    settings = config(folder, other, only_test, max_train_pairs=4)
    pairs = training_pairs(settings, 1)
    assert len(pairs.queries) == len(pairs.positives) == len(pairs.negatives) == 5
    assert pairs == training_pairs(settings, 1) != training_pairs(settings, 2)


def test_answers_whose_pairs_are_not_sampled_are_carried(folder: Path, tmp_path: Path) -> None:
    many = [(f"q{q}", f"d{d}", 1) for q in range(4) for d in range(10)]
    write_qrels(folder, "train", many)
    splits = {"test": [("q9", "d9", 1)], "dev": [("q8", "d8", 1)], "train": [("q1", "d29", 1), ("q2", "d1", 0)]}
    other = make(tmp_path / "other", splits=splits)
    pairs = training_pairs(config(folder, other, max_train_pairs=5), 0)
    assert len(pairs.queries) == 6
    every = {f"query {q}": [f"T{d} x{d}" for d in range(10)] + ["T29 x29"] * (q == 1) for q in range(4)}
    assert pairs.answers == every


def test_hard_negatives(folder: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"query": "q1", "positive": ["d1"], "negative": ["d7", "gone"], "scores": [1, 2, 0.5]},
        {"query": "q1", "negative": ["d8"]},
        {"query": "unknown", "negative": ["d8"]},
    ]
    write_json(folder / "negatives" / "train.jsonl", lines)
    pairs = training_pairs(config(folder), 0)
    assert pairs.negatives[1] == ["T7 x7", "T8 x8"]
    assert pairs.negatives[2] == []
    assert "names 1 documents that are not in corpus.jsonl" in check(config(folder))[0]


# Bad input


def fails(folder: Path, *parts: str, **settings: Any) -> None:
    """`check` raises one sentence that holds each of `parts`."""
    with pytest.raises(InputError) as caught:
        check(config(folder, **settings))
    message = str(caught.value)
    assert "\n" not in message
    for expected in parts:
        assert expected in message


def test_check_of_good_data_warns_of_nothing(folder: Path) -> None:
    assert check(config(folder)) == []
    check_training(config(folder), 0)


def test_a_missing_folder(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", "nowhere' does not exist", "'pydocs'")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    fails(folder, f"{folder} has no {name}", "qrels/SPLIT.tsv")


def test_missing_qrels(tmp_path: Path) -> None:
    fails(make(tmp_path / "set", splits={}), "set has no qrels/test.tsv", "BEIR format")


def test_a_missing_split_lists_those_there_are(folder: Path) -> None:
    fails(folder, "has no split 'final'", "dev, test, train", "data.test_split", test_split="final")
    fails(without_dev(folder), "has no split 'dev'", "only: test, train", train_split="other")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"_id": "a", "text": ', "is not valid JSON: Expecting value at character 21"),
        ("[1, 2]", "must be a JSON object, got '[1, 2]'"),
        ('{"text": "b"}', "'_id' must be an id (a text that is not empty), got None"),
        ('{"_id": "a"}', "'text' must be a text, got None"),
        ('{"_id": "a", "text": 3}', "'text' must be a text, got 3"),
        ('{"_id": "1", "text": "twice"}', "the id '1' is used twice"),
    ],
)
@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_a_bad_line_is_named(folder: Path, name: str, line: str, message: str) -> None:
    write_lines(folder / name, ['{"_id": "1", "text": "fine"}', "", line])
    fails(folder, f"{folder / name}:3", message)


def test_bytes_that_are_no_utf8(folder: Path) -> None:
    (folder / "corpus.jsonl").write_bytes(b'{"_id": "1", "text": "fine"}\n{"_id": "2", "text": "\xff"}\n')
    fails(folder, f"{folder / 'corpus.jsonl'}:2 is not UTF-8")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_an_empty_file(folder: Path, name: str) -> None:
    (folder / name).write_text("\n", encoding="utf-8")
    fails(folder, f"{folder / name} is empty")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read(folder: Path) -> None:
    (folder / "corpus.jsonl").chmod(0)
    fails(folder, f"cannot read {folder / 'corpus.jsonl'}: Permission denied")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q1\td1", "must have 3 columns"),
        ("q1 0 d1 1", "must have 3 columns"),
        ("q1\t0\td1\t1", "got 4: 'q1 | 0 | d1 | 1'"),
        ("q1\td1\tgood", "the score must be a whole number, got 'good'"),
    ],
)
def test_a_bad_row_of_qrels(folder: Path, row: str, message: str) -> None:
    file = folder / "qrels" / "test.tsv"
    write_lines(file, ["query-id\tcorpus-id\tscore", "q2\td2\t1", row])
    fails(folder, f"{file}:3", message, "separated by tabs")


@pytest.mark.parametrize("lines", [[], ["query-id\tcorpus-id\tscore"]])
def test_qrels_without_judgements(folder: Path, lines: list[str]) -> None:
    write_lines(folder / "qrels" / "test.tsv", lines)
    fails(folder, f"{folder / 'qrels' / 'test.tsv'} holds no judgement")


def test_qrels_without_header(folder: Path) -> None:
    write_lines(folder / "qrels" / "test.tsv", ["q1\td1\t1"])
    fails(folder, "test.tsv:1 must be the header 'query-id corpus-id score'", "q1\\td1\\t1")


def test_missing_documents_and_queries_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [("q25", "d25", 1), ("q26", "gone", 1), ("q27", "gone", 1), ("q27", "lost", 1), ("nobody", "d1", 1)]
    write_qrels(folder, "test", rows)
    warnings = check(config(folder))
    file = folder / "qrels" / "test.tsv"
    assert warnings == [
        f"{file} judges 2 documents that are not in corpus.jsonl; left out",
        f"{file} judges 1 queries that are not in queries.jsonl; left out",
    ]
    found = sets.load_collection(str(folder), "test")
    assert found.query_ids == ["q25"]
    assert found.qrels == {"q25": {"d25": 1}}
    assert [record.message for record in caplog.records] == warnings


def test_no_judged_document_is_left(folder: Path) -> None:
    write_qrels(folder, "test", [("q25", "gone", 1), ("q26", "lost", 1), ("q27", "d27", 0)])
    fails(folder, "test.tsv judges no document", "2 judged documents", "check that the ids")


def test_a_negative_that_is_a_positive(folder: Path) -> None:
    file = folder / "negatives" / "train.jsonl"
    write_json(file, [{"query": "q1", "negative": ["d2"]}, {"query": "q1", "negative": ["d3", "d1"]}])
    fails(folder, f"{file}:2: 'd1' is both negative and positive of query 'q1'")
    write_json(file, [{"query": "q1", "positive": ["d9"], "negative": ["d9"]}])
    fails(folder, f"{file}:1: 'd9' is both")
    write_json(file, [{"query": "q1", "negative": "d9"}])
    fails(folder, f"{file}:1: 'negative' must be a list of document ids, got 'd9'")


def test_no_training_pair_anywhere(tmp_path: Path) -> None:
    settings = config(make(tmp_path / "set", splits={"dev": [("q1", "d1", 1)], "test": [("q2", "d2", 1)]}))
    assert check(settings) == []
    with pytest.raises(InputError, match=r"none of .*set has a training pair in its split 'train'"):
        check_training(settings, 0)


def test_every_training_query_is_a_test_query(folder: Path) -> None:
    rows = [("q1", "d1", 1)]
    write_qrels(folder, "train", rows)
    write_qrels(folder, "test", rows)
    fails(without_dev(folder), "every query of 'train' is also in 'test'", "add a split 'dev'")


def test_two_sets_of_one_name(folder: Path, tmp_path: Path) -> None:
    settings = config(folder, make(tmp_path / "more" / "set"))
    with pytest.raises(InputError, match="data.paths has 2 data sets called 'set'.*rename a folder"):
        check(settings)


def test_bad_settings_of_a_data_set(folder: Path) -> None:
    write_json(folder / "dataset.json", [{"ignore_identical_ids": "yes"}])
    fails(folder, "dataset.json: 'ignore_identical_ids' must be true or false, got 'yes'")


# Cost and content


def test_a_file_is_parsed_once_until_it_changes(folder: Path) -> None:
    first = beir.read_corpus(folder / "corpus.jsonl")
    assert beir.read_corpus(folder / "corpus.jsonl") is first
    write_json(folder / "corpus.jsonl", [{"_id": "new", "text": "one"}])
    assert dict(beir.read_corpus(folder / "corpus.jsonl")) == {"new": "one"}


def test_fingerprint_follows_the_content(folder: Path, tmp_path: Path) -> None:
    before = sets.fingerprint(str(folder))
    assert before["name"] == "set"
    assert before["path"] == str(folder)
    assert "packages" not in before
    assert sets.fingerprint(str(make(tmp_path / "copy")))["sha256"] == before["sha256"]
    write_qrels(folder, "dev", [("q1", "d1", 1)])
    assert sets.fingerprint(str(folder))["sha256"] != before["sha256"]


def test_scifact_equals_beir() -> None:
    from beir.datasets.data_loader import GenericDataLoader

    folder = str(needs.data("scifact"))
    found = sets.load_collection(folder, "test")
    assert len(found.documents) == 5183
    assert len(found.queries) == 300
    assert sum(len(grades) for grades in found.qrels.values()) == 339
    corpus, queries, qrels = GenericDataLoader(folder).load(split="test")
    texts = {i: f"{d['title']} {d['text']}".strip() for i, d in corpus.items()}
    assert dict(zip(found.document_ids, found.documents, strict=True)) == texts
    assert dict(zip(found.query_ids, found.queries, strict=True)) == queries
    assert found.qrels == qrels
    assert found.query_ids == list(queries)


# Tokens


def make_tokenizer(words: list[str], eos: bool = True, append: bool = False) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["[UNK]", "[CLS]", "[EOS]", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [EOS]" if append else "[CLS] $A", special_tokens=[("[CLS]", 1), ("[EOS]", 2)]
    )
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=backend, unk_token="[UNK]", **({"eos_token": "[EOS]"} if eos else {}))


def rows(tokens: Tokens) -> list[list[int]]:
    return [tokens[i].tolist() for i in range(len(tokens))]


def test_tokens_are_ragged() -> None:
    tokens = tokenize(make_tokenizer(["a", "b", "c"]), ["a b", "", "c c c c c c"], "b ", 4, False, None)
    assert rows(tokens) == [[1, 4, 3, 4], [1, 4], [1, 4, 5, 5]]
    assert len(tokens) == 3
    assert tokens.lengths.tolist() == [4, 2, 4]
    assert tokens[-1].tolist() == [1, 4, 5, 5]
    assert tokens.ids.dtype == np.int32
    assert tokens.offsets.dtype == np.int64
    with pytest.raises(IndexError):
        tokens[3]


@pytest.mark.parametrize("append", [False, True])
def test_eos_ends_a_text_once_and_within_the_length(append: bool) -> None:
    tokens = tokenize(make_tokenizer(["a", "b"], append=append), ["a", "a b", "a b b b"], "", 4, True, None)
    assert rows(tokens) == [[1, 3, 2], [1, 3, 4, 2], [1, 3, 4, 2]]


def test_eos_of_a_tokenizer_that_has_none() -> None:
    with pytest.raises(InputError, match="no end-of-text token.*model.pooling"):
        tokenize(make_tokenizer(["a"], eos=False), ["a"], "", 4, True, None)


def test_batches_keep_the_order() -> None:
    words = [f"w{i}" for i in range(2500)]
    tokens = tokenize(make_tokenizer(words), words, "", 8, False, None)
    assert rows(tokens) == [[1, i + 3] for i in range(2500)]
    assert len(tokenize(make_tokenizer(words), [], "", 8, False, None)) == 0


def test_tokens_are_cached_by_content(tmp_path: Path) -> None:
    tokenizer, cache = make_tokenizer(["a", "b"]), tmp_path / "cache"
    first = tokenize(tokenizer, ["a", "b a"], "", 8, False, cache)
    (kept,) = cache.iterdir()
    (kept / "ids").write_bytes((first.ids + 1).tobytes())
    assert rows(tokenize(tokenizer, ["a", "b a"], "", 8, False, cache)) == [[2, 4], [2, 5, 4]]
    for damaged in ("ids", "offsets"):
        (kept / damaged).write_bytes(b"damaged")
        assert rows(tokenize(tokenizer, ["a", "b a"], "", 8, False, cache)) == [[1, 3], [1, 4, 3]]
    (kept / "offsets").unlink()
    assert rows(tokenize(tokenizer, ["a", "b a"], "", 8, False, cache)) == [[1, 3], [1, 4, 3]]
    tokenize(tokenizer, ["a", "b a"], "", 8, True, cache)
    tokenize(tokenizer, ["a", "b a"], "", 7, False, cache)
    tokenize(tokenizer, ["a", "b a"], "a ", 8, False, cache)
    tokenize(tokenizer, ["ab", " a"], "", 8, False, cache)
    tokenize(make_tokenizer(["b", "a"]), ["a", "b a"], "", 8, False, cache)
    assert len(list(cache.iterdir())) == 6
    assert all(sorted(f.name for f in kept.iterdir()) == ["ids", "offsets"] for kept in cache.iterdir())


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write the cache .*file.*XDG_CACHE_HOME"):
        tokenize(make_tokenizer(["a"]), ["a"], "", 8, False, tmp_path / "file")

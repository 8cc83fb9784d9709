"""Corpora in memory maps against the same in memory: ids, texts, samples, scores, tokens, and every bad file."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from effir_dist.core.errors import InputError
from effir_dist.core.mapped import UNFINISHED
from effir_dist.core.settings import DataConfig, TrainConfig
from effir_dist.core.strings import Strings
from effir_dist.data import beir, sets, texts
from effir_dist.data.pairs import training_pairs
from effir_dist.data.roles import search_collection
from effir_dist.data.texts import Texts
from effir_dist.evaluate.evaluation import evaluate
from effir_dist.models.encoder import load_encoder
from effir_dist.training.batches import batches, examples_of
from tests.tiny import write_collection

ODD = ["zwölf", "\ud800 alone", "", "🙂", "tab\tand \\ line\n"]


@pytest.fixture
def maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of all sizes are mapped. Returns the cache's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(beir, "MAPPED_BYTES", 0)
    beir._cached.cache_clear()
    return tmp_path / "cache" / "effir_dist" / "texts"


def in_memory(path: Path) -> Texts:
    return beir._in_memory(path, beir.document_text)


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return path


def test_mapped_texts_are_those_in_memory(maps: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "corpus.jsonl", [{"_id": f"é{i}", "text": text} for i, text in enumerate(ODD * 20)])
    found, expected = beir.read_corpus(path), in_memory(path)
    assert isinstance(found.texts, Strings)
    assert isinstance(expected.texts, list)
    assert dict(found) == dict(expected)
    assert list(found.ids) == list(found) == expected.ids
    assert [found.row(key) for key in expected] == list(range(100))
    for missing in ("é100", "", "e1", 7):
        assert missing not in found
    assert found.get("é100") is None
    with pytest.raises(KeyError, match="é100"):
        found["é100"]


def test_ids_of_one_hash_are_told_apart(maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_hash", lambda encoded: len(encoded))
    path = write_lines(tmp_path / "corpus.jsonl", [{"_id": f"{i}", "text": f"text {i}"} for i in range(30)])
    found = beir.read_corpus(path)
    assert dict(found) == dict(in_memory(path))
    assert "30" not in found


def test_equal_files_are_written_and_read_once(maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    lines = beir.lines
    monkeypatch.setattr(beir, "lines", lambda path: read.append(path) or lines(path))
    paths = [write_lines(tmp_path / name, [{"_id": "1", "text": "same"}]) for name in ("a.jsonl", "b.jsonl")]
    for path in (*paths, paths[0]):
        assert dict(beir.read_corpus(path)) == {"1": "same"}
        beir._cached.cache_clear()  # as in another process
    assert read == paths[:1]
    assert dict(beir.read_queries(paths[0])) == {"1": "same"}
    assert len([folder for folder in maps.iterdir() if folder.name != "known"]) == 2
    write_lines(paths[0], [{"_id": "1", "text": "else"}])
    assert dict(beir.read_corpus(paths[0])) == {"1": "else"}


def test_damaged_maps_are_made_again(maps: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "corpus.jsonl", [{"_id": f"{i}", "text": "some"} for i in range(9)])
    beir.read_corpus(path)
    (folder,) = (found for found in maps.iterdir() if found.name != "known")
    for file in sorted(folder.iterdir()):
        beir._cached.cache_clear()
        (folder / file.name).write_bytes(b"cut")
        assert dict(beir.read_corpus(path)) == dict(in_memory(path)), file.name


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"_id": key, "text": ""} for key in "abab"], ":5: the id 'a' is used twice"),
        ([{"_id": "a", "text": ""}, {"_id": "b", "text": 3}], ":3: 'text' must be a text, got 3"),
        ([], "is empty; it needs at least one line"),
    ],
)
def test_a_bad_file_is_named_as_in_memory(
    rows: list[dict[str, object]], message: str, maps: Path, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "corpus.jsonl", rows)
    for read in (beir.read_corpus, in_memory):
        with pytest.raises(InputError) as error:
            read(path)
        assert message in str(error.value)
    assert not any(UNFINISHED in found.name for found in maps.iterdir())


def test_a_cache_that_cannot_be_written(maps: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    path = write_lines(tmp_path / "corpus.jsonl", [{"_id": "a", "text": ""}])
    with pytest.raises(InputError, match="cannot write the cache .*XDG_CACHE_HOME"):
        beir.read_corpus(path)


def plain(collection: sets.Collection) -> dict[str, object]:
    """With lists in place of memory maps."""
    fields = {field.name: getattr(collection, field.name) for field in dataclasses.fields(collection)}
    return {name: list(value) if isinstance(value, Strings) else value for name, value in fields.items()}


@pytest.mark.parametrize("limits", [{}, {"max_documents": 17}, {"max_queries": 3, "max_documents": 5}])
def test_splits_samples_pairs_tokens_and_scores_are_those_in_memory(
    limits: dict[str, int], checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    encoder = load_encoder(str(checkpoints["bert"]))
    found = []
    for name, least in (("one", 2**40), ("other", 0)):
        folder = write_collection(tmp_path / name / "set", documents=60, queries=24)
        monkeypatch.setattr(beir, "MAPPED_BYTES", least)
        data = DataConfig(paths=(str(folder),), **limits)
        collection, pairs = search_collection(str(folder), data, 3), training_pairs(data, 3)
        assert isinstance(collection.documents, Strings) == (least == 0)
        scores = evaluate(encoder, collection, cache=tmp_path / "tokens")
        tokens = encoder.tokenize(collection.documents, "document", tmp_path / "tokens")
        given = list(pairs.queries), list(pairs.positives), dict(pairs.answers)
        found.append((plain(collection), given, scores.per_query, scores.ranked, tokens.ids.tolist()))
    assert found[0] == found[1]


def test_training_on_mapped_corpora_is_that_on_those_in_memory(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two data sets, one of them small enough for memory, with hard negatives, scores and equal texts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    encoder, found = load_encoder(str(checkpoints["bert"])), []
    for name, least in (("memory", 2**40), ("maps", 0), ("mixed", 5000)):
        one = write_collection(tmp_path / name / "one", documents=90, queries=24)
        other = write_collection(tmp_path / name / "other", documents=30, queries=9)  # its texts are in the first, too
        lines = [{"query": f"q{3 * i}", "negative": [f"d{(7 * i + j) % 90}" for j in range(1, 5)]} for i in range(8)]
        scores = [[9.0, 1.0, 2.0, None, i] for i in range(8)]
        scored = [{**line, "positive": [f"d{3 * i}"], "scores": scores[i]} for i, line in enumerate(lines)]
        (one / "negatives").mkdir()
        (one / "negatives" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scored))
        monkeypatch.setattr(beir, "MAPPED_BYTES", least)
        pairs = training_pairs(DataConfig(paths=(str(one), str(other)), max_train_pairs=7), 0)
        assert isinstance(pairs.positives, Strings) == (least < 2**40)
        examples = examples_of(encoder, pairs, TrainConfig(hard_negatives=2), tmp_path / "tokens")
        drawn = [batch.passages.tolist() for batch in itertools.islice(batches(examples, TrainConfig(batch_size=4)), 5)]
        columns = [pairs.queries, pairs.positives, pairs.negatives, [repr(row) for row in pairs.scores]]
        tokens = [examples.queries.ids.tolist(), examples.passages.ids.tolist()]
        numbers = [examples.query.tolist(), examples.positive.tolist(), [*examples.negatives], [*examples.answers]]
        found.append(([[*column] for column in columns], dict(pairs.answers), tokens, numbers, drawn))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0][2][0]) == 4

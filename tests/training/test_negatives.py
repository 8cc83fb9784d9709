"""Mined hard negatives: no answers among them, scores that are the miner's, and nothing lost by a kill."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from effir_dist.core.errors import InputError
from effir_dist.core.settings import DataConfig
from effir_dist.data.pairs import check, training_pairs
from effir_dist.data.sets import load_collection
from effir_dist.evaluate import evaluation
from effir_dist.evaluate.metrics import mean, measure_all, trec_order
from effir_dist.models.encoder import load_encoder
from effir_dist.training import negatives
from effir_dist.training.bm25 import BM25
from effir_dist.training.mining import Dense, Ranked, choose, load_reranker
from tests import needs
from tests.tiny import write_collection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 training queries over 60 documents."""
    return write_collection(tmp_path / "toy", documents=60, queries=36)


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["negatives", "--data", str(folder), *arguments])
    negatives.main()
    return [json.loads(line) for line in (folder / "negatives" / "train.jsonl").read_text().splitlines()]


def test_passages_too_near_the_positive_are_left_out() -> None:
    passages = ["answer", "same as it", "other", "answer", "far", "farther"]
    ranked = Ranked(np.array([1, 0, 3, 2, 4, 5]), np.array([0.99, 0.9, 0.85, 0.8, 0.5, 0.4]), np.array([0.9]))
    mined = choose(ranked, [0], passages, count=2, max_share=0.95)
    assert mined.negatives == [2, 4]  # 1 scores above 0.855, 3 is the positive's text
    assert mined.scores == [0.9, 0.8, 0.5]
    assert mined.suspects == 2
    below = Ranked(np.array([1, 2]), np.array([-0.5, -2.0]), np.array([-1.0]))
    assert choose(below, [0], passages, 2, 0.9).negatives == [2]


@pytest.mark.parametrize(("miner", "share"), [("bm25", 0.95), ("model", 1.0)])
def test_what_is_mined_trains(
    miner: str, share: float, folder: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "bm25" if miner == "bm25" else str(checkpoints["bert"])
    lines = run(monkeypatch, folder, "--miner", name, "--count", "4", "--max-share", str(share))
    config = DataConfig(paths=(str(folder),))
    assert check(config, need_scores=True) == []
    pairs = training_pairs(config, 0)
    assert len(lines) == len(pairs.queries) == 12
    assert max(map(len, pairs.negatives)) == 4
    for line, scores in zip(lines, pairs.scores, strict=True):
        assert not set(line["positive"]) & set(line["negative"])
        assert scores[1:] == sorted(scores[1:], reverse=True)
        assert all(score <= scores[0] - (1 - share) * abs(scores[0]) for score in scores[1:])


def test_a_model_mines_by_its_own_similarities(
    folder: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, train = load_encoder(str(checkpoints["llama"]), "auto"), load_collection(str(folder), "train")
    similar = encoder.encode(train.queries, "query") @ encoder.encode(train.documents).T
    place = {d: i for i, d in enumerate(train.document_ids)}
    for row, line in enumerate(run(monkeypatch, folder, "--miner", str(checkpoints["llama"]), "--count", "3")):
        own = similar[row, place[line["positive"][0]]]
        limit = own - 0.05 * abs(own)
        expected = [i for i in np.argsort(-similar[row]) if similar[row, i] <= limit][:3]
        assert [place[d] for d in line["negative"]] == expected


def test_vectors_in_a_file_mine_as_those_in_memory(
    folder: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, train = load_encoder(str(checkpoints["bert"])), load_collection(str(folder), "train")
    found = []
    for most in (2**40, 0):
        monkeypatch.setattr(evaluation, "ON_DISK_BYTES", most)
        monkeypatch.setattr(evaluation, "PART", 13)
        miner = Dense(encoder, train.documents)
        assert isinstance(miner.vectors, np.memmap) == (most == 0)
        found.append(miner.rank(list(train.queries), [[i] for i in range(len(train.queries))], 60))
    for memory, file in zip(*found, strict=True):
        assert sorted(file.indices.tolist()) == sorted(memory.indices.tolist())
        np.testing.assert_allclose(file.scores, memory.scores, atol=1e-3)
        np.testing.assert_allclose(file.positives, memory.positives, atol=1e-3)


def test_a_reranker_scores_and_judges(
    folder: Path, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    path = tmp_path / "reranker"
    shutil.copytree(checkpoints["bert"], path)
    config = AutoConfig.from_pretrained(path, num_labels=1)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    model.classifier.weight.data *= 20
    model.save_pretrained(path)
    plain = run(monkeypatch, folder, "--count", "5")
    (folder / "negatives" / "train.jsonl").unlink()
    lines = run(monkeypatch, folder, "--count", "5", "--reranker", str(path))
    train, reranker = load_collection(str(folder), "train"), load_reranker(str(path), 512)
    texts = dict(zip(train.document_ids, train.documents, strict=True))
    for line, before, query in zip(lines, plain, train.queries, strict=True):
        expected = {d: reranker([(query, texts[d])])[0] for d in [*line["positive"], *before["negative"]]}
        best = max(expected[d] for d in line["positive"])
        kept = [d for d in before["negative"] if expected[d] <= best]
        assert line["negative"] == kept
        np.testing.assert_allclose(line["scores"], [expected[d] for d in [*line["positive"], *kept]], atol=1e-4)
    assert sum(len(line["negative"]) for line in lines) < sum(len(line["negative"]) for line in plain)


def test_a_pickled_reranker_is_never_read(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoints["bert"], tmp_path / "reranker"))
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    torch.save(weights, path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model.bin is a pickle, which may run code .* only safetensors"):
        load_reranker(str(path), 512)
    (path / "pytorch_model.bin").rename(path / "pytorch_model.txt")
    with pytest.raises(InputError, match="cannot load the reranker"):
        load_reranker(str(path), 512)


def test_a_killed_run_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(BM25, "at_once", 5)
    whole = run(monkeypatch, folder)
    final = folder / "negatives" / "train.jsonl"
    final.unlink()
    mine = negatives.mine
    calls = []

    def killed(*args: Any) -> Any:
        calls.append(len(args[1]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return mine(*args)

    monkeypatch.setattr(negatives, "mine", killed)
    with pytest.raises(SystemExit, match="130"):
        run(monkeypatch, folder)
    assert not final.exists()
    with final.with_suffix(".partial").open("a") as file:
        file.write('{"query": "q9", "posi')  # half a line
    calls.extend([0, 0])
    assert run(monkeypatch, folder) == whole
    assert calls == [5, 5, 0, 0, 5, 2]
    assert "5 queries are in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "--count must be 1 or more, got 0"),
        (["--depth", "3"], "--depth must be at least --count (15), got 3"),
        (["--max-share", "1.5"], "--max-share must lie above 0 and up to 1, got 1.5"),
        (["--split", "final"], "has no split 'final'"),
        (["--miner", "minilmm"], "minilmm"),
        (["--reranker", "BERT"], "outputs; a cross-encoder has 1"),
    ],
)
def test_bad_input(
    arguments: list[str],
    message: str,
    folder: Path,
    checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(checkpoints["bert"]) if a == "BERT" else a for a in arguments]
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, folder, *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_what_was_mined_is_not_overwritten(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, folder)
    with pytest.raises(SystemExit):
        run(monkeypatch, folder)
    assert "is there already" in capsys.readouterr().err


def test_bm25_reaches_its_known_score() -> None:
    """SciFact: 67.6 to 67.9 are published for BM25."""
    test = load_collection(str(needs.data("scifact")), "test")
    ranked = BM25(test.documents).rank(test.queries, [[0] for _ in test.queries], 100)
    found = {
        query: trec_order([test.document_ids[index] for index in row.indices], row.scores)
        for query, row in zip(test.query_ids, ranked, strict=True)
    }
    assert mean(list(measure_all(found, test.qrels).values()))["ndcg_at_10"] == pytest.approx(0.678, abs=0.015)

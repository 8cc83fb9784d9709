"""The evaluate command on sentence-transformers folders, against another model, and the files that it writes."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from effir_dist.core import files
from effir_dist.core.errors import InputError
from effir_dist.core.measures import METRICS
from effir_dist.evaluate import command as evaluate_command
from effir_dist.export.command import export
from tests import needs
from tests.exports import EQUAL, MIXED, write_run

needs.module("sentence_transformers")
Command = Callable[..., str]


@pytest.fixture(scope="module")
def exports(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path], collection: Path
) -> dict[str, Path]:
    """Trial -> its export; "st" is the first as a stranger's sentence-transformers model."""
    folder = tmp_path_factory.mktemp("models")
    run = write_run(folder / "run", checkpoints["qwen2"], collection)
    for trial in (MIXED, EQUAL):
        export(run, run.result(trial), folder / trial)
    shutil.copytree(folder / MIXED, folder / "st", ignore=shutil.ignore_patterns("plan.json", "*.py"))
    return {name: folder / name for name in (MIXED, EQUAL, "st")}


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command with these arguments; returns what it prints."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
        evaluate_command.main()
        return capsys.readouterr().out

    return run


def test_an_export_scores_alike_through_our_loader_and_as_a_sentence_transformer(
    exports: dict[str, Path], collection: Path, tmp_path: Path, run_command: Command
) -> None:
    given = (exports[MIXED], "--data", collection, "--against", exports["st"], "--json", tmp_path / "out.json")
    out = run_command(*given)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["datasets"]["toy"]["per_query"] == result["against"]["datasets"]["toy"]["per_query"]
    assert (result["max_query_length"], result["max_document_length"]) == (48, 96)
    assert {k: result["against"][k] for k in ("max_query_length", "max_document_length")} == {
        "max_query_length": 48,
        "max_document_length": 96,
    }
    assert "+0.00 [+0.00, +0.00]" in out


def test_two_models_are_compared_query_by_query(
    exports: dict[str, Path], collection: Path, tmp_path: Path, run_command: Command
) -> None:
    second = Path(shutil.copytree(collection, tmp_path / "second"))
    (second / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq4\td9\t1\n")
    given = (exports[MIXED], "--data", collection, "--data", second, "--against", exports[EQUAL])
    out = run_command(*given, "--json", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    own, other = (side["datasets"]["toy"]["per_query"] for side in (result, result["against"]))
    for metric in METRICS:
        row = result["difference"]["toy"][metric]
        assert row["value"] == pytest.approx(np.mean([own[q][metric] - other[q][metric] for q in own]))
        assert row["low"] <= row["value"] <= row["high"]
        means = [result["difference"][name][metric]["value"] for name in ("toy", "second")]
        assert result["difference"]["mean"][metric]["value"] == pytest.approx(np.mean(means))
    assert [line.split()[0] for line in out.splitlines() if line][4:][:4] == ["difference", "toy", "second", "mean"]
    assert f"{exports[MIXED]} minus {exports[EQUAL]}" in out


def test_the_run_file_is_what_trec_eval_scores_alike(
    exports: dict[str, Path], collection: Path, tmp_path: Path, run_command: Command
) -> None:
    pytrec_eval = needs.module("pytrec_eval")
    given = (exports[MIXED], "--data", collection, "--run-files", tmp_path / "runs", "--csv", tmp_path / "queries.csv")
    run_command(*given)
    lines = (tmp_path / "runs" / "toy.trec").read_text().splitlines()
    run: dict[str, dict[str, float]] = {}
    for query, q0, document, rank, score, tag in map(str.split, lines):
        assert (q0, tag) == ("Q0", MIXED)
        run.setdefault(query, {})[document] = float(score)
        assert int(rank) == len(run[query])
    qrels: dict[str, dict[str, int]] = {}
    for line in (collection / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        qrels.setdefault(query, {})[document] = int(grade)
    scored = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100"}).evaluate(run)
    with (tmp_path / "queries.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["query_id"] for row in rows} == set(qrels)
    for row in rows:
        assert float(row["ndcg_at_10"]) == pytest.approx(scored[row["query_id"]]["ndcg_cut_10"])
        assert float(row["recall_at_100"]) == pytest.approx(scored[row["query_id"]]["recall_100"])


def test_a_folder_with_code_or_pickles_is_refused(exports: dict[str, Path], tmp_path: Path) -> None:
    from effir_dist.models.sentence_models import SentenceModel

    folder = Path(shutil.copytree(exports["st"], tmp_path / "code"))
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "mine.Transformer"
    files.write_text_atomic(folder / "modules.json", json.dumps(modules))
    with pytest.raises(InputError, match=r"sentence-transformers cannot load .*mine.Transformer"):
        SentenceModel(str(folder))
    folder = Path(shutil.copytree(exports["st"], tmp_path / "pickle"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="is a pickle"):
        SentenceModel(str(folder))


def test_without_sentence_transformers_it_says_what_to_install(
    exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from effir_dist.models.sentence_models import SentenceModel

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"install `effir_dist\[st\]`"):
        SentenceModel(str(exports["st"]))

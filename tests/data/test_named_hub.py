"""`hf:ORG/NAME` through the real huggingface_hub against a hub on loopback, and `mteb:TASK` through the real mteb."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from effir_dist.core.errors import InputError
from effir_dist.core.settings import DataConfig
from effir_dist.data import beir, sets
from effir_dist.data.named import hub_sets, mteb_tasks, names
from effir_dist.data.pairs import check, training_pairs
from tests import ROOT, needs
from tests.hub import Hub, hub_of
from tests.tiny import write_collection


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "source", documents=30, queries=12)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with hub_of(tmp_path / "hub") as server:
        server.used_in(monkeypatch, tmp_path / "hf")
        yield server


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def judgements(file: Path) -> list[dict[str, Any]]:
    names, *rows = (line.split("\t") for line in file.read_text().splitlines())
    return [{**dict(zip(names, row, strict=True)), "score": int(row[2])} for row in rows]


def parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def as_first_published(source: Path, hub: Hub, name: str) -> None:
    """Gzipped lines and a script in one repository, qrels as TSV in another: BeIR/scifact and BeIR/scifact-qrels."""
    texts, qrels = hub.folder / "datasets" / name, hub.folder / "datasets" / f"{name}-qrels"
    texts.mkdir(parents=True)
    for kind in ("corpus", "queries"):
        (texts / f"{kind}.jsonl.gz").write_bytes(gzip.compress((source / f"{kind}.jsonl").read_bytes()))
    (texts / "scifact.py").write_text("raise SystemExit('never run')")
    hub.add(source / "qrels", f"{name}-qrels", "datasets")
    (qrels / "README.md").write_text("judgements")


def as_parquet(source: Path, hub: Hub, name: str) -> None:
    """Shards in a folder for each kind, qrels in another repository: BeIR/nfcorpus today."""
    texts, qrels = hub.folder / "datasets" / name, hub.folder / "datasets" / f"{name}-qrels"
    corpus = records(source / "corpus.jsonl")
    parquet(texts / "corpus" / "corpus-00000-of-00002.parquet", corpus[:20])
    parquet(texts / "corpus" / "corpus-00001-of-00002.parquet", corpus[20:])
    parquet(texts / "queries" / "queries-00000-of-00001.parquet", records(source / "queries.jsonl"))
    for split, called in (("train", "train"), ("dev", "validation"), ("test", "test")):
        parquet(qrels / "default" / called / "0000.parquet", judgements(source / "qrels" / f"{split}.tsv"))


def as_mteb(source: Path, hub: Hub, name: str) -> None:
    """All in one repository, qrels as JSON lines with scores as floats: mteb/nfcorpus."""
    folder = hub.folder / "datasets" / name
    (folder / "qrels").mkdir(parents=True)
    for kind in ("corpus", "queries"):
        (folder / f"{kind}.jsonl").write_bytes((source / f"{kind}.jsonl").read_bytes())
    for split in ("train", "dev", "test"):
        rows = [{**row, "score": float(row["score"])} for row in judgements(source / "qrels" / f"{split}.tsv")]
        (folder / "qrels" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("publish", [as_first_published, as_parquet, as_mteb])
def test_a_set_of_the_hub_is_the_folder_that_it_was_made_of(
    publish: Callable[[Path, Hub, str], None], source: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(source, hub, "BeIR/toy")
    folder = sets.resolve("hf:BeIR/toy")
    assert folder == names.cache() / "hf" / "BeIR" / "toy"
    assert beir.splits(folder) == ["dev", "test", "train"]
    for split in ("train", "dev", "test"):
        ours, first = sets.read_split(folder, split), sets.read_split(source, split)
        assert dict(ours.documents) == dict(first.documents)
        assert (dict(ours.queries), ours.qrels) == (dict(first.queries), first.qrels)
    hub.offline(monkeypatch)
    assert sets.load_collection("hf:BeIR/toy", "test").name == "toy"
    assert len(sets.fingerprint("hf:BeIR/toy")["source"]["revisions"][0]) == 40


def test_what_was_downloaded_is_used_off_line_though_it_was_not_unpacked(
    source: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_parquet(source, hub, "BeIR/toy")
    hub_sets.snapshot("BeIR/toy")
    hub_sets.snapshot("BeIR/toy-qrels")
    hub.offline(monkeypatch)
    assert beir.splits(sets.resolve("hf:BeIR/toy")) == ["dev", "test", "train"]


def test_a_cut_answer_is_gone_on_with(source: Path, hub: Hub) -> None:
    as_first_published(source, hub, "BeIR/toy")
    hub.cut("corpus.jsonl.gz", times=1)
    assert len(sets.read_split(sets.resolve("hf:BeIR/toy"), "test").documents) == 30


def test_what_the_hub_lacks_or_keeps_is_one_sentence(source: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    as_first_published(source, hub, "BeIR/toy")
    with pytest.raises(InputError, match="the Hugging Face hub has no data set BeIR/none that you may read"):
        sets.resolve("hf:BeIR/none")
    with pytest.raises(InputError, match="the data set BeIR/toy of the Hugging Face hub has no such revision"):
        sets.resolve("hf:BeIR/toy@v2")
    with pytest.raises(InputError, match="hf:toy must be hf:ORG/NAME"):
        sets.resolve("hf:toy")
    with pytest.raises(InputError, match="BeIR/toy-qrels is not in BEIR's form: it has no corpus and queries, but dev"):
        sets.resolve("hf:BeIR/toy-qrels")
    (hub.folder / "datasets" / "BeIR" / "toy" / "queries.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="queries.jsonl.gz cannot be read"):
        sets.resolve("hf:BeIR/toy")
    as_mteb(source, hub, "mteb/toy")
    hub.gated.add("mteb/toy")
    with pytest.raises(InputError, match="the data set mteb/toy asks for your consent"):
        sets.resolve("hf:mteb/toy")
    hub.offline(monkeypatch)
    with pytest.raises(InputError, match=r"hf:BeIR/other is not in the cache and cannot .*put its corpus.jsonl"):
        sets.resolve("hf:BeIR/other")


def test_mteb_tasks_are_loaded_by_mteb(source: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    mteb = needs.module("mteb")
    from tests.evaluate.test_mteb import local_task

    task = local_task(source)
    monkeypatch.setattr(mteb, "get_task", lambda name, hf_subsets=None: task)
    ours, first = sets.load_collection("mteb:Toy", "test"), sets.load_collection(str(source), "test")
    assert (ours.name, list(ours.documents), list(ours.queries)) == ("Toy", list(first.documents), list(first.queries))
    assert (ours.qrels, ours.ignore_identical_ids) == (first.qrels, False)
    task.ignore_identical_ids = True
    assert sets.load_collection("mteb:Toy/default", "test").ignore_identical_ids


def test_mteb_tasks_that_are_no_retrieval_or_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    needs.module("mteb")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match="mteb has no task 'NFCorpuss'; Did you mean: 'NFCorpus'"):
        sets.resolve("mteb:NFCorpuss")
    with pytest.raises(InputError, match="mteb:STS12 is a task of another kind"):
        sets.resolve("mteb:STS12")
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(InputError, match=r"pip install 'effir_dist\[mteb\]'"):
        mteb_tasks.check_reachable("NFCorpus")


@pytest.mark.slow
def test_mteb_fetches_a_task_of_its_own_from_the_hub(source: Path, hub: Hub, tmp_path: Path) -> None:
    needs.module("mteb")
    as_mteb(source, hub, "mteb/nfcorpus")
    card = "configs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {path}\n"
        for name, split, path in (
            *(("corpus", "corpus", "corpus.jsonl"), ("queries", "queries", "queries.jsonl")),
            ("default", "test", "qrels/test.jsonl"),
        )
    )
    (hub.folder / "datasets/mteb/nfcorpus/README.md").write_text(f"---\n{card}---\n")
    hub.commits["mteb/nfcorpus"] = "ec0fa4fe99da2ff19ca1214b7966684033a58814"
    code = "from effir_dist.data import sets; print(len(sets.load_collection('mteb:NFCorpus', 'test').queries))"
    environment = {**hub.environment(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "4", done.stderr


def as_pairs(hub: Hub, name: str) -> None:
    """Folders of parquet files for each subset and split: sentence-transformers/all-nli."""
    folder = hub.folder / "datasets" / name
    triples = [{"anchor": f"q {i}", "positive": f"p {i}", "negative": f"p {i + 1}"} for i in range(6)]
    parquet(folder / "triplet" / "train-00000-of-00002.parquet", triples[:4])
    parquet(folder / "triplet" / "train-00001-of-00002.parquet", triples[4:])
    parquet(folder / "triplet" / "test-00000-of-00001.parquet", [{"anchor": "t", "positive": "u", "negative": "v"}])
    parquet(folder / "pair" / "train-00000-of-00001.parquet", [{"anchor": "q", "positive": "p"}])
    (folder / "README.md").write_text("pairs")


def test_training_pairs_of_the_hub(source: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The train split of the named subset is all that is fetched; it is there off line."""
    as_pairs(hub, "sentence-transformers/nli")
    name = "hf:sentence-transformers/nli"
    with pytest.raises(InputError, match="has the subsets pair, triplet; name one of them: hf:sent"):
        sets.resolve(name)
    with pytest.raises(InputError, match="has the subsets pair, triplet"):
        sets.resolve(f"{name}:none")
    data = DataConfig(paths=(str(source),), train_paths=(f"{name}:triplet",))
    assert check(data) == []
    found = training_pairs(data, 0)
    assert [*found.queries] == [f"q {i}" for i in range(6)]
    assert [*found.negatives] == [[f"p {i + 1}"] for i in range(6)]
    assert sets.dataset_name(f"{name}:triplet") == "nli-triplet"
    fetched = {path.name for path in (tmp_path / "hf").rglob("*.parquet")}
    assert fetched == {"train-00000-of-00002.parquet", "train-00001-of-00002.parquet"}
    hub.offline(monkeypatch)
    assert len(sets.fingerprint(f"{name}:triplet")["source"]["revisions"][0]) == 40
    with pytest.raises(InputError, match=r"nli:pair is not in the cache and .*put its .* or pass --train-data FILE"):
        sets.resolve(f"{name}:pair")


def test_a_bad_row_of_the_hub_is_named(hub: Hub) -> None:
    parquet(hub.folder / "datasets" / "org" / "bad" / "train.parquet", [{"query": "q", "answer": None}])
    with pytest.raises(InputError, match=r"train.parquet: row 1: 'answer' must be a text that is not empty, got None"):
        sets.resolve("hf:org/bad")

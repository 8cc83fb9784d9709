"""Data sets and their splits. A path is a BEIR-format folder, `pydocs`, a name such as `beir:scifact` (`named/`), or a
file of training pairs (`pair_files.py`).

Beside corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv a folder may hold
- `negatives/SPLIT.jsonl`, hard negatives for training, one line a query:
  {"query": id, "positive": [document ids], "negative": [document ids], "scores": [numbers]};
  the scores are a teacher's, of the positives and then of the negatives, for `train.distill_scores`; they are optional;
- `dataset.json`, {"ignore_identical_ids": true} where the document with a query's own id is no answer to it;
- a sub-folder per split with its own corpus, queries and qrels (SPLIT/corpus.jsonl, SPLIT/qrels/SPLIT.tsv, ...).
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effir_dist.core.errors import InputError
from effir_dist.core.strings import picked
from effir_dist.core.values import Json
from effir_dist.data import beir, pair_files, pydocs
from effir_dist.data.named import names
from effir_dist.data.texts import Texts
from effir_dist.runs.sizes import SetSize

BUILT_IN = "pydocs"
IDENTICAL_IDS = ("arguana", "quora")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """One split of one data set, ready for evaluation."""

    name: str
    split: str
    document_ids: Sequence[str]
    documents: Sequence[str]
    query_ids: Sequence[str]
    """Those with at least one relevant document (grade above 0) in the corpus, in the order of the qrels."""
    queries: Sequence[str]
    qrels: dict[str, dict[str, int]]
    """Query id -> document id -> grade, for `query_ids`. Grades of 0 and below are kept."""
    ignore_identical_ids: bool
    all_queries: int = 0
    """How many there are without a limit; 0 where that is not known."""
    all_documents: int = 0

    @property
    def size(self) -> SetSize:
        """What its scores are of."""
        return SetSize(len(self.query_ids), len(self.document_ids), self.all_queries, self.all_documents)


@dataclass(frozen=True)
class Split:
    """A split as it was read. Its qrels name only queries and documents that exist; each query has a relevant one."""

    folder: Path
    name: str
    documents: Texts
    queries: Texts
    qrels: beir.Qrels
    warnings: list[str]


def resolve(path: str) -> Path:
    """The folder of a data set. `pydocs` is built first, and a named one fetched, if it is not in the user's cache yet.

    Raises InputError for a folder that is not there and a name that cannot be fetched.
    """
    if path == BUILT_IN:
        return pydocs.folder()
    if names.is_name(path):
        return names.folder(path)
    if pair_files.is_pair_file(path):
        return pair_files.folder(path)
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"the data folder {path!r} does not exist; give a BEIR-format folder, {BUILT_IN!r}, or {names.EXAMPLES}"
        )
    return folder


def is_here(path: str) -> bool:
    """Whether a data set is on this machine; nothing is built or fetched."""
    if names.is_name(path):
        return names.is_here(path)
    if pair_files.is_pair_file(path):
        return Path(path).expanduser().is_file()
    return (pydocs.built_folder() if path == BUILT_IN else Path(path).expanduser()).is_dir()


def absolute(path: str) -> str:
    """As a process that starts in another folder finds it."""
    return path if path == BUILT_IN or names.is_name(path) else str(Path(path).expanduser().resolve())


def dataset_name(path: str) -> str:
    """The name of a data set in results: its folder's name, its file's without the ending, or a named one's own."""
    if names.is_name(path):
        return names.label(path)
    if pair_files.is_pair_file(path):
        return Path(path).stem
    return BUILT_IN if path == BUILT_IN else Path(path).expanduser().resolve().name


def ignores_identical_ids(folder: Path, name: str) -> bool:
    settings = folder / "dataset.json"
    if not settings.is_file():
        return name.lower() in IDENTICAL_IDS
    text = "".join(line for _, line in beir.lines(settings))
    value = beir.json_object(text, str(settings)).get("ignore_identical_ids", False)
    if not isinstance(value, bool):
        raise InputError(f"{settings}: 'ignore_identical_ids' must be true or false, got {value!r}")
    return value


def read_split(folder: Path, split: str) -> Split:
    file = beir.require_split(folder, split)
    root = file.parent.parent
    documents = beir.read_corpus(root / "corpus.jsonl")
    queries = beir.read_queries(root / "queries.jsonl")
    judged = beir.read_qrels(file)
    missing_queries = len(judged.keys() - queries.keys())
    missing_documents = len({d for grades in judged.values() for d in grades} - documents.keys())
    found = {q: {d: g for d, g in grades.items() if d in documents} for q, grades in judged.items() if q in queries}
    qrels = {q: grades for q, grades in found.items() if any(g > 0 for g in grades.values())}
    if not qrels:
        raise InputError(
            f"{file} judges no document of {root / 'corpus.jsonl'} relevant (score above 0) to a query of "
            f"{root / 'queries.jsonl'}: {missing_documents} judged documents and {missing_queries} judged queries "
            "are not there; check that the ids are those of this corpus"
        )
    counts = ((missing_documents, "documents", "corpus.jsonl"), (missing_queries, "queries", "queries.jsonl"))
    warnings = [f"{file} judges {n} {what} that are not in {where}; left out" for n, what, where in counts if n]
    return Split(root, split, documents, queries, qrels, warnings)


def sample(items: Sequence[Any] | np.ndarray, count: int, seed: object) -> list[Any]:
    """`count` of `items` in their order; all of them where `count` is 0 or there are no more."""
    if count == 0 or count >= len(items):
        return list(items)
    return [items[i] for i in sorted(random.Random(str(seed)).sample(range(len(items)), count))]


def _document_rows(split: Split, query_ids: Iterable[str], max_documents: int, seed: int) -> np.ndarray | None:
    """Places [n] of the documents that are kept, ascending; None for all."""
    documents = split.documents
    if max_documents == 0 or max_documents >= len(documents):
        return None
    judged = {documents.row(d) for q in query_ids for d in split.qrels[q]}
    others = np.setdiff1d(np.arange(len(documents)), np.fromiter(judged, np.int64))
    room = max(0, max_documents - len(judged))
    return np.sort(np.array([*judged, *(sample(others, room, seed) if room else ())], np.int64))


def collection(
    path: str, split: Split, queries: Sequence[str], label: str, limits: tuple[int, int], seed: int
) -> Collection:
    """These queries of a split over its corpus. limits: as of `load_collection`; label: what results call it."""
    name = dataset_name(path)
    query_ids = sample(queries, limits[0], seed)
    documents, rows = split.documents, _document_rows(split, query_ids, limits[1], seed)
    return Collection(
        name=name,
        split=label,
        document_ids=documents.ids if rows is None else picked(documents.ids, rows),
        documents=documents.texts if rows is None else picked(documents.texts, rows),
        query_ids=query_ids,
        queries=picked(split.queries.texts, [split.queries.row(q) for q in query_ids]),
        qrels={q: split.qrels[q] for q in query_ids},
        ignore_identical_ids=ignores_identical_ids(resolve(path), name),
        all_queries=len(queries),
        all_documents=len(split.documents),
    )


def load_collection(path: str, split: str, max_queries: int = 0, max_documents: int = 0, seed: int = 0) -> Collection:
    """One split of a data set, in the order of its files.

    max_queries: keep a seeded sample of the judged queries. max_documents: keep every document judged for them, and a
    seeded sample of the others up to that number. 0 keeps all. Raises InputError as `read_split` does.
    """
    read = read_split(resolve(path), split)
    for warning in read.warnings:
        log.warning(warning)
    return collection(path, read, [*read.qrels], split, (max_queries, max_documents), seed)


def fingerprint(path: str) -> Json:
    """{"name", "path", "sha256" of the files' names and bytes}, for pydocs "packages": {name: version}, and for a named
    one "source": where it was fetched from."""
    folder = resolve(path)
    digest = hashlib.sha256()
    for file in beir.content_files(folder):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    found: Json = {"name": dataset_name(path), "path": path, "sha256": digest.hexdigest()}
    if names.is_name(path) and (source := names.source_of(path)):
        found["source"] = source
    return found | {"packages": pydocs.versions()} if path == BUILT_IN else found

"""The files of a BEIR-format folder: where they are, and how they are read, with errors that name file and line."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from effir_dist.core.errors import InputError
from effir_dist.core.mapped import cache_root
from effir_dist.core.values import Json
from effir_dist.data.texts import Texts, UsedTwice, shared_texts

LAYOUT = "a data folder holds corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv (the BEIR format)"
QRELS_HEADER = ["query-id", "corpus-id", "score"]
CORPORA_KEPT = 8
MAPPED_BYTES = 64 * 2**20
"""Size of a corpus.jsonl or queries.jsonl from which on its texts are in memory maps. What is smaller is in memory."""

Qrels = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Negatives:
    """One line of `negatives/SPLIT.jsonl`. where: its file:line."""

    where: str
    query: str
    positives: list[str]
    negatives: list[str]
    scores: dict[str, float]
    """Document id -> a teacher's score, for those that have one."""


def part(folder: Path, split: str) -> Path:
    """The folder with the files of `split`: its own sub-folder if that has a corpus, else `folder`."""
    own = folder / split
    return own if (own / "corpus.jsonl").is_file() else folder


def splits(folder: Path) -> list[str]:
    """Names of the splits that a folder has."""
    names = {file.stem for file in folder.glob("qrels/*.tsv")}
    names |= {file.stem for file in folder.glob("*/qrels/*.tsv") if part(folder, file.stem) == file.parent.parent}
    return sorted(names)


def content_files(folder: Path) -> list[Path]:
    """Every file that is part of the data set, sorted by path."""
    patterns = ("corpus.jsonl", "queries.jsonl", "qrels/*.tsv", "negatives/*.jsonl", "dataset.json")
    roots = [folder, *{part(folder, split) for split in splits(folder)}]
    return sorted({file for root in roots for pattern in patterns for file in root.glob(pattern)})


def signature(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of all files of a data set. It changes when a file does."""
    stats = ((str(file.absolute()), file.stat()) for file in content_files(folder))
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def require_split(folder: Path, split: str) -> Path:
    """The qrels file of `split`. Raises InputError where corpus, queries, qrels folder or split are missing."""
    root, known = part(folder, split), splits(folder)
    if known and split not in known:
        raise InputError(
            f"{folder} has no split {split!r}, only: {', '.join(known)}; "
            "add its qrels file or set data.train_split, data.search_split or data.test_split to one of these"
        )
    for name in ("corpus.jsonl", "queries.jsonl"):
        if not (root / name).is_file():
            raise InputError(f"{root} has no {name}; {LAYOUT}")
    if not known:
        raise InputError(f"{folder} has no qrels/{split}.tsv; {LAYOUT}")
    return root / "qrels" / f"{split}.tsv"


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, text) of the lines that are not blank. Raises InputError for a file that is not UTF-8 text."""
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8").strip()
                if text:
                    yield number, text
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}:{number} is not UTF-8 text; save the file as UTF-8") from None


def json_object(text: str, where: str) -> Json:
    """`text` as a JSON object. Raises InputError that starts with `where` for anything else."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not valid JSON: {error.msg} at character {error.pos + 1}") from None
    if not isinstance(record, dict):
        raise InputError(f"{where} must be a JSON object, got {text[:40]!r}")
    return record


def _text(record: Json, name: str, where: str, optional: bool = False) -> str:
    value = record.get(name)
    if optional and value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{where}: {name!r} must be a text, got {value!r}")
    return value


def _id(value: object, where: str, name: str) -> str:
    # Some tools write ids as numbers, while qrels hold text.
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{where}: {name!r} must be an id (a text that is not empty), got {value!r}")
    return str(value)


def document_text(record: Json, where: str) -> str:
    """Title and text of a line of corpus.jsonl, with a space between."""
    return f"{_text(record, 'title', where, optional=True)} {_text(record, 'text', where)}".strip()


def _query(record: Json, where: str) -> str:
    return _text(record, "text", where)


def _rows(path: Path, convert: Callable[[Json, str], str]) -> Iterator[tuple[str, str, str]]:
    """(file:line, id, text) of each line. Raises InputError for a bad line, or where there is none."""
    number = 0
    for number, line in lines(path):
        where = f"{path}:{number}"
        record = json_object(line, where)
        yield where, _id(record.get("_id"), where, "_id"), convert(record, where)
    if not number:
        raise InputError(f"{path} is empty; it needs at least one line like {{'_id': '1', 'text': '...'}}")


def _used_twice(where: str, key: str) -> InputError:
    return InputError(f"{where}: the id {key!r} is used twice; ids must be unique in a file")


def _in_memory(path: Path, convert: Callable[[Json, str], str]) -> Texts:
    texts: dict[str, str] = {}
    for where, key, text in _rows(path, convert):
        if key in texts:
            raise _used_twice(where, key)
        texts[key] = text
    return Texts.of(texts)


def _in_maps(path: Path, convert: Callable[[Json, str], str], kind: str) -> Texts:
    def read() -> Iterator[tuple[str, str]]:
        return ((key, text) for _, key, text in _rows(path, convert))

    try:
        return shared_texts(path, kind, cache_root() / "texts", read)
    except UsedTwice as error:
        number, _ = next(itertools.islice(lines(path), error.row, None))
        raise _used_twice(f"{path}:{number}", error.key) from None


# Read once in a process: checks, evaluation and training read the same corpus.
@functools.lru_cache(maxsize=CORPORA_KEPT)
def _cached(path: Path, modified: int, size: int, corpus: bool) -> Texts:
    convert, kind = (document_text, "corpus") if corpus else (_query, "queries")
    return _in_maps(path, convert, kind) if size >= MAPPED_BYTES else _in_memory(path, convert)


def _read_cached(path: Path, corpus: bool) -> Texts:
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return _cached(path.absolute(), stat.st_mtime_ns, stat.st_size, corpus)


def read_corpus(path: Path) -> Texts:
    """Document id -> title and text with a space between. Do not change it: it is shared.

    Of a file of MAPPED_BYTES or more the texts are in memory maps, made once in the user's cache.
    """
    return _read_cached(path, corpus=True)


def read_queries(path: Path) -> Texts:
    """Query id -> text, as `read_corpus`."""
    return _read_cached(path, corpus=False)


def _qrels_row(row: list[str], where: str) -> tuple[str, str, int]:
    expected = "query-id, corpus-id and a whole-number score, separated by tabs"
    if len(row) != 3:
        raise InputError(f"{where} must have 3 columns ({expected}), got {len(row)}: {' | '.join(row)[:80]!r}")
    try:
        return row[0], row[1], int(row[2])
    except ValueError:
        raise InputError(f"{where}: the score must be a whole number, got {row[2]!r}; a row is {expected}") from None


def read_qrels(path: Path) -> Qrels:
    """Query id -> document id -> grade, in the file's order. Raises InputError for a bad header or row, or no row."""
    qrels: Qrels = {}
    for number, line in lines(path):
        row = [cell.strip() for cell in line.split("\t")]
        if number == 1:
            if row != QRELS_HEADER:
                raise InputError(f"{path}:1 must be the header {' '.join(QRELS_HEADER)!r} (tabs between), got {line!r}")
            continue
        query, document, grade = _qrels_row(row, f"{path}:{number}")
        qrels.setdefault(query, {})[document] = grade
    if not qrels:
        raise InputError(f"{path} holds no judgement; it needs a header and at least one row")
    return qrels


def _ids(record: Json, name: str, where: str) -> list[str]:
    values = record.get(name, [])
    if not isinstance(values, list):
        raise InputError(f"{where}: {name!r} must be a list of document ids, got {values!r}")
    return [_id(value, where, name) for value in values]


def read_negatives(path: Path) -> Iterator[Negatives]:
    """Lines {"query": id, "positive": [ids], "negative": [ids], "scores": [numbers or null]}, the scores optional."""
    for number, line in lines(path):
        where = f"{path}:{number}"
        record = json_object(line, where)
        query = _id(record.get("query"), where, "query")
        positives, negatives = (_ids(record, name, where) for name in ("positive", "negative"))
        yield Negatives(where, query, positives, negatives, _scores(record, [*positives, *negatives], where))


def _scores(record: Json, documents: list[str], where: str) -> dict[str, float]:
    values = record.get("scores")
    if values is None:
        return {}
    if not isinstance(values, list) or len(values) != len(documents):
        count = len(values) if isinstance(values, list) else repr(values)
        raise InputError(
            f"{where}: 'scores' must be a list of {len(documents)} numbers, one for each positive and "
            f"then each negative, got {count}"
        )
    for value in values:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value)):
            raise InputError(f"{where}: a score must be a number, or null where there is none, got {value!r}")
    return {document: float(value) for document, value in zip(documents, values, strict=True) if value is not None}

"""Training data as sentence-transformers has it: rows of a query, a positive and negatives, in JSON lines or parquet.

Such a file becomes a BEIR-format folder in the user's cache, once, by its content: equal texts become one query or one
passage. So what holds for a folder holds for it: roles, samples, hard negatives, known answers, fingerprints.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from effir_dist.core.errors import InputError
from effir_dist.core.mapped import cache_root, made_once
from effir_dist.core.values import Json
from effir_dist.data import beir
from effir_dist.data.named.rows import parquet_rows, write_qrels
from effir_dist.data.texts import content_hash

SUFFIXES = (".jsonl", ".parquet")
QUERY, POSITIVE, SCORES = ("query", "anchor", "question"), ("positive", "answer"), ("scores", "score", "label")
"""Names of columns, as sentence-transformers' data sets have them."""
NEGATIVE = re.compile(r"negatives?(?:_(\d+))?")
SPLIT = "train"
FORMAT = 1
"""Of the folders; older ones are not read."""
EXPECTED = "a query (query, anchor, question), a positive (positive, answer) and any negatives (negative, negative_1..)"


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns, by what they hold."""

    query: str
    positive: str
    negatives: tuple[str, ...]
    scores: str
    """Empty where there are none."""


def is_pair_file(path: str) -> bool:
    """Whether a data path is such a file, by its ending."""
    return path.endswith(SUFFIXES) and not Path(path).expanduser().is_dir()


def folder(path: str) -> Path:
    """The BEIR-format folder that a file became. Raises InputError that names line and column for a bad row."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"the data file {path!r} does not exist; it holds {EXPECTED}")
    cache = cache_root() / "pairs"
    name = hashlib.sha256(f"{FORMAT} {file.suffix} {content_hash(file, cache)}".encode()).hexdigest()[:32]
    return made_once(cache / name, lambda empty: write([file], empty), _whole)


def _whole(made: Path) -> Path:
    if not (made / "qrels" / f"{SPLIT}.tsv").is_file():
        raise FileNotFoundError(made)
    return made


def write(files: Sequence[Path], empty: Path) -> None:
    """Write the rows of tables as a BEIR-format folder with the split `train`. Raises InputError for a bad row."""
    names = ", ".join(map(str, files))
    print(f"reading the training pairs of {names}", file=sys.stderr, flush=True)
    positives, negatives = _Pairs(), _Pairs()
    with (empty / "queries.jsonl").open("w") as queries, (empty / "corpus.jsonl").open("w") as corpus:
        _read(files, _Distinct(queries), _Distinct(corpus), positives, negatives)
    if not len(positives):
        raise InputError(f"{names} holds no row; a row holds {EXPECTED}")
    judged = ((str(key >> 32), str(key & 0xFFFFFFFF), 1) for key in positives.distinct()[0].tolist())
    write_qrels(empty / "qrels" / f"{SPLIT}.tsv", judged)
    _write_negatives(positives, negatives, empty / "negatives" / f"{SPLIT}.jsonl")


def _read(files: Iterable[Path], queries: _Distinct, passages: _Distinct, positives: _Pairs, negatives: _Pairs) -> None:
    for where, row in _rows(files):
        columns = columns_of(tuple(row), where)
        query = queries.add(_text(row.get(columns.query), columns.query, where))
        texts = [_text(row.get(columns.positive), columns.positive, where), *_negatives(row, columns, where)]
        scores = _scores(row, columns.scores, len(texts), where)
        for number, (text, score) in enumerate(zip(texts, scores, strict=True)):
            (negatives if number else positives).add(query, passages.add(text), score)


@functools.lru_cache(maxsize=64)
def _known_columns(names: tuple[str, ...]) -> Columns | None:
    query, positive = (next((n for n in known if n in names), "") for known in (QUERY, POSITIVE))
    if len(names) == 2 and not (query and positive):
        query, positive = names  # sentence-transformers goes by their order too
    found = sorted((int(m[1] or 0), name) for name in names if (m := NEGATIVE.fullmatch(name)))
    scores = next((name for name in SCORES if name in names), "")
    return Columns(query, positive, tuple(name for _, name in found), scores) if query and positive else None


def columns_of(names: tuple[str, ...], where: str) -> Columns:
    """What the columns of a row hold: by name, or of two by their order. Raises InputError for others."""
    found = _known_columns(names)
    if found is None:
        raise InputError(f"{where} has the columns {', '.join(names) or 'none'}; it needs {EXPECTED}: rename them")
    return found


def _rows(files: Iterable[Path]) -> Iterator[tuple[str, Json]]:
    """(file and line, row) of tables."""
    for file in files:
        if file.suffix == ".parquet":
            yield from _parquet(file)
        else:
            for number, line in beir.lines(file):
                yield f"{file}:{number}", beir.json_object(line, f"{file}:{number}")


def _parquet(file: Path) -> Iterator[tuple[str, Json]]:
    try:
        yield from ((f"{file}: row {number}", row) for number, row in enumerate(parquet_rows(file), 1))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is not a readable parquet file: {str(error).splitlines()[0]}") from None


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {column!r} must be a text that is not empty, got {value!r}")
    return value.strip()


def _negatives(row: Json, columns: Columns, where: str) -> list[str]:
    """Each column holds a text, a list of texts, or null."""
    found: list[str] = []
    for name in columns.negatives:
        value = row.get(name)
        values = value if isinstance(value, list) else [value]
        found += [_text(each, name, where) for each in values if value is not None]
    return found


def _scores(row: Json, column: str, count: int, where: str) -> list[float]:
    """A teacher's scores of the positive and the negatives; NaN where there is none."""
    value = row.get(column) if column else None
    if value is None:
        return [nan] * count
    if column == "label" and not isinstance(value, list):
        raise InputError(f"{where}: 'label' tells positives from others; take pairs that are all positives, without it")
    values = value if isinstance(value, list) else [value]
    if len(values) != count:
        raise InputError(
            f"{where}: {column!r} must be a list of {count} numbers, of the positive and then of each negative, got "
            f"{len(values)}"
        )
    return [_number(each, column, where) for each in values]


def _number(value: Any, column: str, where: str) -> float:
    if value is None:
        return nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise InputError(f"{where}: {column!r} must hold numbers, or null where there is none, got {value!r}")
    return float(value)


class _Distinct:
    """Texts by number, in the order in which they first come, each written once. 16 bytes of a text are kept."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._numbers = stream, dict[bytes, int]()

    def add(self, text: str) -> int:
        """The text's number, which is its id."""
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            self._stream.write(json.dumps({"_id": str(number), "text": text}) + "\n")
        return number


class _Pairs:
    """Pairs of a query and a passage with a score: 16 bytes each."""

    def __init__(self) -> None:
        self._keys, self._scores = array("q"), array("d")

    def add(self, query: int, passage: int, score: float) -> None:
        self._keys.append(query << 32 | passage)
        self._scores.append(score)

    def __len__(self) -> int:
        return len(self._keys)

    def distinct(self, without: NDArray[np.int64] | None = None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Keys [n] and scores [n], each key once, by query and then as they came."""
        keys, firsts = np.unique(np.array(self._keys, np.int64), return_index=True)
        if without is not None:
            firsts = firsts[~np.isin(keys, without)]
        whole = np.array(self._keys, np.int64)
        order = firsts[np.lexsort((firsts, whole[firsts] >> 32))]
        return whole[order], np.array(self._scores)[order]


def _write_negatives(positives: _Pairs, negatives: _Pairs, file: Path) -> None:
    """`negatives/train.jsonl`. What answers a query in another row is none of its negatives."""
    known, known_scores = positives.distinct()
    found, scores = negatives.distinct(without=known)
    if not len(found) and np.isnan(known_scores).all():
        return
    queries = np.unique(known >> 32)
    file.parent.mkdir()
    with file.open("w", encoding="utf-8") as stream:
        for query, own, others in zip(queries.tolist(), _parts(known, queries), _parts(found, queries), strict=True):
            line = {"query": str(query), "positive": _ids(known[own]), "negative": _ids(found[others])}
            values = [None if isnan(s) else s for s in (*known_scores[own].tolist(), *scores[others].tolist())]
            scored = {} if all(value is None for value in values) else {"scores": values}
            stream.write(json.dumps({**line, **scored}) + "\n")


def _parts(keys: NDArray[np.int64], queries: NDArray[np.int64]) -> list[slice]:
    """Where the keys of each query are, in sorted keys."""
    first, last = (np.searchsorted(keys >> 32, queries, side).tolist() for side in ("left", "right"))
    return [slice(*bounds) for bounds in zip(first, last, strict=True)]


def _ids(keys: NDArray[np.int64]) -> list[Any]:
    return [str(key & 0xFFFFFFFF) for key in keys.tolist()]

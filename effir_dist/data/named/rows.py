"""Rows of the tables that the hub has (JSON lines, plain or gzipped, parquet, TSV), and BEIR's files made of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from effir_dist.core.errors import InputError
from effir_dist.data.beir import QRELS_HEADER

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".tsv")
ROWS = 4096
"""Of a parquet file, that are in memory at a time."""

Row = dict[str, Any]
"""Column -> value, as a table has it: any type that JSON or parquet knows."""


def rows_of(files: Iterable[Path]) -> Iterator[tuple[str, Row]]:
    """(file:row, row) of tables, one after the other. Raises InputError for what is no such table."""
    for file in files:
        number = 0
        for number, row in enumerate(_rows(file), 1):
            if not isinstance(row, dict):
                raise InputError(f"{file}:{number} must be an object with columns, got {str(row)[:40]!r}")
            yield f"{file}:{number}", row


def _rows(file: Path) -> Iterator[Row]:
    try:
        if file.name.endswith(".parquet"):
            yield from parquet_rows(file)
        elif file.name.endswith(".tsv"):
            yield from _tsv(file)
        else:
            with gzip.open(file, "rb") if file.name.endswith(".gz") else file.open("rb") as stream:
                yield from (json.loads(line) for line in stream if line.strip())
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{file} cannot be read: {error}") from None


def parquet_rows(file: Path) -> Iterator[Row]:
    """Rows of a parquet file. Raises OSError and ValueError, pyarrow's own, for what is none."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as table:
        for batch in table.iter_batches(ROWS):
            yield from batch.to_pylist()


def _tsv(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8") as stream:
        names = next(stream, "").rstrip("\n").split("\t")
        for line in stream:
            if line.strip():
                yield dict(zip(names, line.rstrip("\n").split("\t"), strict=False))


def _id(row: Row, where: str) -> str:
    found = row.get("_id", row.get("id"))
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise InputError(f"{where} needs an id in its column '_id' or 'id', got {found!r}")
    return str(found)


def _text(row: Row, where: str) -> str:
    found = row.get("text")
    if not isinstance(found, str):
        raise InputError(f"{where} needs a text in its column 'text', got {found!r}")
    return found


def corpus_line(row: Row, where: str) -> Row:
    """A line of corpus.jsonl."""
    title = row.get("title") or ""
    return {"_id": _id(row, where), "title": str(title), "text": _text(row, where)}


def query_line(row: Row, where: str) -> Row:
    """A line of queries.jsonl."""
    return {"_id": _id(row, where), "text": _text(row, where)}


def write_lines(file: Path, lines: Iterable[Row]) -> None:
    """Write JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def qrels_rows(files: Iterable[Path]) -> Iterator[tuple[str, str, int]]:
    """(query, document, grade) of tables with BEIR's three columns. Raises InputError for others."""
    for where, row in rows_of(files):
        try:
            query, document, grade = (row[name] for name in QRELS_HEADER)
            yield str(query), str(document), int(float(grade))
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{where} needs the columns {', '.join(QRELS_HEADER)}, got {row}") from None


def write_qrels(file: Path, rows: Iterable[tuple[str, str, int]]) -> None:
    """Write a qrels file in BEIR's form."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as stream:
        stream.write("\t".join(QRELS_HEADER) + "\n")
        stream.writelines(f"{query}\t{document}\t{grade}\n" for query, document, grade in rows)

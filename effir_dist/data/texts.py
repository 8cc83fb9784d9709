"""The texts of a corpus by id: small ones in memory, large ones in memory maps that a machine's processes share."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from effir_dist.core.files import write_text_atomic
from effir_dist.core.mapped import StringsWriter, cache_errors, made_once, mapped, write_arrays
from effir_dist.core.strings import Strings

FORMAT = 1
"""Of the mapped files; older ones are not read."""

Rows = Iterable[tuple[str, str]]
"""Ids and texts."""


SPREAD = 100
"""Texts of a column that show what it is about."""


def spread(column: Sequence[str]) -> list[str]:
    """`SPREAD` texts of a column, evenly spaced; all of them where there are no more."""
    step = max(1, len(column) // SPREAD)
    return [column[row] for row in range(0, len(column), step)][:SPREAD]


class Index(Protocol):
    """Tells the row of an id."""

    def get(self, key: str) -> int | None: ...


class Texts(Mapping[str, str]):
    """Id -> text, in the order of the file that they are from. Do not change it: it is shared."""

    def __init__(self, ids: Sequence[str], texts: Sequence[str], index: Index) -> None:
        self.ids, self.texts, self._index = ids, texts, index

    @staticmethod
    def of(texts: Mapping[str, str]) -> Texts:
        """In memory."""
        return Texts(list(texts), list(texts.values()), {key: row for row, key in enumerate(texts)})

    def find(self, key: str) -> int | None:
        """The place of an id, or None."""
        return self._index.get(key)

    def row(self, key: str) -> int:
        """The place of an id. Raises KeyError where there is none."""
        found = self._index.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __getitem__(self, key: str) -> str:
        return self.texts[self.row(key)]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._index.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


class HashIndex:
    """`Index` of ids in memory maps, by binary search among their hashes: 12 bytes an id."""

    def __init__(self, ids: Strings, hashes: NDArray[np.int64], rows: NDArray[np.int32]) -> None:
        """hashes: [N], ascending. rows: [N], of each hash."""
        self._ids, self._hashes, self._rows = ids, hashes, rows

    def get(self, key: str) -> int | None:
        """The row of an id, or None."""
        encoded = key.encode("utf-8", "surrogatepass")
        wanted = _hash(encoded)
        place = int(np.searchsorted(self._hashes, wanted))
        while place < len(self._hashes) and self._hashes[place] == wanted:
            row = int(self._rows[place])
            if self._ids.encoded(row) == encoded:
                return row
            place += 1
        return None


def _hash(encoded: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little", signed=True)


class UsedTwice(Exception):
    """An id that stands in a file twice. row: the place of the second one."""

    def __init__(self, key: str, row: int) -> None:
        super().__init__(key)
        self.key, self.row = key, row


def shared_texts(path: Path, kind: str, cache: Path, read: Callable[[], Rows]) -> Texts:
    """Texts of a file in memory maps, by content hash in `cache`; read() is called where they are not there yet.

    kind: how the file is read. Raises what read() raises, UsedTwice, and InputError where the cache cannot be written.
    """
    digest = f"{kind}-{FORMAT}-{content_hash(path, cache)}"
    folder = cache / hashlib.sha256(digest.encode()).hexdigest()[:32]
    return made_once(folder, lambda empty: _write(empty, read()), lambda whole: _open(whole, digest))


def content_hash(path: Path, cache: Path) -> str:
    """sha256 of a file's bytes; noted in `cache`, so that a file of the same path, size and times is not read again."""
    stat = path.stat()
    state = repr((str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
    note = cache / "known" / hashlib.sha256(state.encode()).hexdigest()[:32]
    if note.is_file():
        return note.read_text()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with cache_errors(note):
        write_text_atomic(note, digest)
    return digest


def _open(folder: Path, digest: str) -> Texts:
    ids, texts = (Strings.open(folder, name, f"{digest} {name}") for name in ("ids", "texts"))
    hashes, rows = mapped(folder / "hashes", np.int64), mapped(folder / "rows", np.int32)
    if not len(ids) == len(texts) == len(hashes) == len(rows):
        raise ValueError(f"{folder} is damaged")
    return Texts(ids, texts, HashIndex(ids, hashes, rows))


def _write(folder: Path, found: Rows) -> None:
    ids, texts, hashes = StringsWriter(folder, "ids"), StringsWriter(folder, "texts"), array("q")
    for key, text in found:
        hashes.append(_hash(ids.add(key)))
        texts.add(text)
    ids.close()
    texts.close()
    order = np.argsort(np.frombuffer(hashes, np.int64), kind="stable")
    sorted_hashes = np.frombuffer(hashes, np.int64)[order]
    _check_unique(Strings.open(folder, "ids", ""), sorted_hashes, order)
    write_arrays(folder / "hashes", [sorted_hashes], np.int64)
    write_arrays(folder / "rows", [order], np.int32)


def _check_unique(ids: Strings, hashes: NDArray[np.int64], order: NDArray[np.int64]) -> None:
    """Raises UsedTwice for the first row whose id an earlier one has."""
    equal = np.flatnonzero(hashes[1:] == hashes[:-1])
    seen: set[bytes] = set()
    for row in np.unique(order[np.concatenate([equal, equal + 1])]).tolist():
        if ids.encoded(row) in seen:
            raise UsedTwice(ids[row], row)
        seen.add(ids.encoded(row))

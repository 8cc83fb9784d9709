"""Columns of texts that need not be in memory: decoded when they are asked for, picked and joined without copies."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from effir_dist.core.mapped import mapped

DECODED_AT_ONCE = 1024
"""Texts that are decoded ahead where a column is walked through."""

Part = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""UTF-8 bytes of N texts, one after the other, and where each ends [N]."""


class Strings(Sequence[str]):
    """Texts in memory maps, decoded each time that they are asked for. A slice is a list."""

    def __init__(self, parts: Sequence[Part], digest: str, rows: NDArray[np.int64] | None = None) -> None:
        """digest: of the content. rows: which texts of all parts, in order; None for all."""
        self._parts, self._rows, self.digest = tuple(parts), rows, digest
        self._firsts = [0, *itertools.accumulate(len(ends) for _, ends in parts)]

    @staticmethod
    def open(folder: Path, name: str, digest: str) -> Strings:
        """What `StringsWriter` wrote. Raises OSError or ValueError where the files are missing or damaged."""
        data, ends = mapped(folder / f"{name}.utf8", np.uint8), mapped(folder / f"{name}.ends", np.int64)
        if len(data) != (ends[-1] if len(ends) else 0):
            raise ValueError(f"{folder / name} is cut")
        return Strings([(data, ends)], digest)

    @staticmethod
    def of(texts: Iterable[str]) -> Strings:
        """The same of texts that are in memory, as their bytes."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = np.fromiter(itertools.accumulate(map(len, encoded)), np.int64, len(encoded))
        data = np.frombuffer(b"".join(encoded), np.uint8)
        return Strings([(data, ends)], hashlib.sha256(data.tobytes() + ends.tobytes()).hexdigest())

    @staticmethod
    def joined(columns: Sequence[Strings]) -> Strings:
        """One after the other."""
        parts, rows = [part for column in columns for part in column._parts], []
        first = 0
        for column in columns:
            rows.append(first + (np.arange(len(column)) if column._rows is None else column._rows))
            first += column._firsts[-1]
        digest = hashlib.sha256(" ".join(column.digest for column in columns).encode()).hexdigest()
        return Strings(parts, digest, np.concatenate(rows))

    def __len__(self) -> int:
        return self._firsts[-1] if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._text(place) for place in range(len(self))[index]]
        return self._text(range(len(self))[index])

    def _text(self, index: int) -> str:
        return str(self.encoded(index), "utf-8", "surrogatepass")

    def encoded(self, index: int) -> bytes:
        """The UTF-8 bytes of a text."""
        return self._bytes(index if self._rows is None else int(self._rows[index]))

    def _bytes(self, row: int) -> bytes:
        part = bisect.bisect_right(self._firsts, row) - 1 if len(self._parts) > 1 else 0
        row -= self._firsts[part]
        data, ends = self._parts[part]
        return data[ends[row - 1] if row else 0 : ends[row]].tobytes()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), DECODED_AT_ONCE):
            yield from self[start : start + DECODED_AT_ONCE]

    def select(self, rows: NDArray[np.int64]) -> Strings:
        """The texts at `rows` [n], in that order. Its digest is of the whole's and the rows."""
        chosen = rows if self._rows is None else self._rows[rows]
        digest = hashlib.sha256(self.digest.encode() + np.ascontiguousarray(chosen, np.int64).tobytes()).hexdigest()
        return Strings(self._parts, digest, chosen)

    def distinct(self) -> tuple[Strings, NDArray[np.int64]]:
        """Every text once, in the order in which they first come; and where each text is among those [N].

        Texts are equal whose digests are, of 16 bytes.
        """
        rows = np.arange(len(self)) if self._rows is None else self._rows
        unique, of_unique = np.unique(rows, return_inverse=True)
        digests = [hashlib.blake2b(self._bytes(row), digest_size=16).digest() for row in unique.tolist()]
        _, of_digests = np.unique(np.array(digests, "S16"), return_inverse=True)
        labels = of_digests[of_unique]
        _, firsts, where = np.unique(labels, return_index=True, return_inverse=True)
        order = np.argsort(firsts)
        ranks = np.empty_like(order)
        ranks[order] = np.arange(len(order))
        return self.select(firsts[order]), ranks[where]


class Ragged(Sequence[list[Any]]):
    """Lists of different length: of texts, or of numbers."""

    flat: Any

    def __init__(self, flat: Sequence[str] | NDArray[Any], offsets: NDArray[np.int64]) -> None:
        """flat: all of them, one after the other. offsets: [N + 1], where each list begins, and the end."""
        self.flat, self.offsets = flat, offsets

    @staticmethod
    def of(lists: Sequence[Sequence[str]]) -> Ragged:
        """The same of lists of texts."""
        return Ragged.of_lengths([*itertools.chain(*lists)], map(len, lists))

    @staticmethod
    def of_lengths(flat: Sequence[str] | NDArray[Any], lengths: Iterable[int]) -> Ragged:
        """Of lists of these lengths."""
        return Ragged(flat, np.array([0, *itertools.accumulate(lengths)], np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        found = self.flat[self.offsets[place] : self.offsets[place + 1]]
        return found.tolist() if isinstance(found, np.ndarray) else found


def picked(items: Sequence[str], rows: Sequence[int] | NDArray[Any]) -> Sequence[str]:
    """The items at `rows`, in that order: without copies where they are in memory maps, else a list."""
    if isinstance(items, Strings):
        return items.select(np.asarray(rows, np.int64))
    return [items[int(row)] for row in rows]


def joined(columns: Sequence[Sequence[str]]) -> Sequence[str]:
    """One after the other: without copies where one of them is in memory maps, else a list."""
    if any(isinstance(column, Strings) for column in columns):
        return Strings.joined([column if isinstance(column, Strings) else Strings.of(column) for column in columns])
    return list(itertools.chain(*columns))


def distinct(columns: Sequence[Sequence[str]]) -> tuple[Sequence[str], list[NDArray[np.int64]]]:
    """Every text once, in the order in which the columns have them; and where each column's texts are among those."""
    whole = joined(columns)
    texts: Sequence[str]
    if isinstance(whole, Strings):
        texts, where = whole.distinct()
    else:
        index: dict[str, int] = {}
        where = np.array([index.setdefault(text, len(index)) for text in whole], np.int64)
        texts = [*index]
    return texts, np.split(where, np.cumsum([len(column) for column in columns])[:-1])

"""Data on disk that all processes of a machine share: written once, memory-mapped, held once by the page cache."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from effir_dist.core.errors import InputError

T = TypeVar("T")

WRITTEN_AT_ONCE = 2**20
"""Bytes that wait in memory before they are written."""
DECODED_AT_ONCE = 1024
"""Texts of a `Strings` that are decoded ahead where it is walked through."""
UNFINISHED = "-building-"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)


def cache_root() -> Path:
    """The folder of this user's caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "effir_dist"


def made_once(folder: Path, write: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """read(folder); where it is missing or damaged, write(an empty folder) first, which then takes its place whole.

    Of several processes one writes and the others wait. `read` raises OSError or ValueError for what is missing or
    damaged. Raises InputError where the folder cannot be written.
    """
    found = _attempt(folder, read)
    if found is not None:
        return found
    with cache_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(folder.with_name(f"{folder.name}.lock")) as alone:
            found = _attempt(folder, read)
            if found is not None:
                return found
            if alone:
                _remove_unfinished(folder)
            _replace(folder, write)
        return read(folder)


def _attempt(folder: Path, read: Callable[[Path], T]) -> T | None:
    try:
        return read(folder)
    except (OSError, ValueError):
        return None


def _remove_unfinished(folder: Path) -> None:
    """What a process left that was killed while it wrote."""
    for left in folder.parent.glob(f"{folder.name}{UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)


def _replace(folder: Path, write: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}{UNFINISHED}") as temporary:
        whole = Path(temporary) / "whole"
        whole.mkdir()
        write(whole)
        shutil.rmtree(folder, ignore_errors=True)  # damaged; who has mapped it keeps its pages
        # Where locks are not to be had another process may have been as quick, with the same bytes.
        with contextlib.suppress(FileExistsError), _as_exists():
            os.rename(whole, folder)


@contextlib.contextmanager
def _as_exists() -> Iterator[None]:
    """A folder that is there already is FileExistsError, on every file system."""
    try:
        yield
    except OSError as error:
        raise FileExistsError(*error.args) from None if error.errno in (errno.ENOTEMPTY, errno.EEXIST) else error


@contextlib.contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Raise InputError where `folder` of a cache cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write the cache {folder}: {error.strerror}; free space there, or "
            "set XDG_CACHE_HOME to a disk with room"
        ) from None


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[bool]:
    """One process at a time, and whether that is sure: where the file system has no locks nobody waits.

    The kernel drops the lock with the process.
    """
    file, alone = os.open(path, os.O_CREAT | os.O_RDWR), True
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            alone = False
        yield alone
        # Whoever waits for this file, or makes a new one, finds the work done.
        path.unlink(missing_ok=True)
    finally:
        os.close(file)


def mapped(file: Path, dtype: Any) -> NDArray[Any]:
    """[n] the numbers in a file, read where they are used. Raises OSError or ValueError where it is missing or cut."""
    if file.stat().st_size == 0:
        return np.empty(0, dtype)
    return np.asarray(np.memmap(file, dtype, "r"))


def write_arrays(file: Path, arrays: Iterable[Any], dtype: Any) -> None:
    """Write arrays one after the other, for `mapped`."""
    with file.open("wb", WRITTEN_AT_ONCE) as stream:
        for numbers in arrays:
            stream.write(np.ascontiguousarray(numbers, dtype).data)
        _kept_on_disk(stream)


def _kept_on_disk(stream: BinaryIO) -> None:
    """Raises OSError where the disk is full."""
    stream.flush()
    os.fsync(stream.fileno())


class StringsWriter:
    """Writes texts one by one for `Strings.open`: the bytes and where each text ends."""

    def __init__(self, folder: Path, name: str) -> None:
        self._stream = (folder / f"{name}.utf8").open("wb", WRITTEN_AT_ONCE)
        self._file, self._ends, self._end = folder / f"{name}.ends", array("q"), 0

    def add(self, text: str) -> bytes:
        """Returns the text's bytes."""
        encoded = text.encode("utf-8", "surrogatepass")
        self._end += len(encoded)
        self._stream.write(encoded)
        self._ends.append(self._end)
        return encoded

    def close(self) -> None:
        """Write what waits. Raises OSError where the disk is full."""
        with self._stream:
            _kept_on_disk(self._stream)
        write_arrays(self._file, [self._ends], np.int64)


class Strings(Sequence[str]):
    """Texts in memory maps, decoded each time that they are asked for. A slice is a list."""

    def __init__(
        self, data: NDArray[np.uint8], ends: NDArray[np.int64], digest: str, rows: NDArray[np.int64] | None = None
    ) -> None:
        """data: UTF-8 [bytes]. ends: [N]. digest: of the content. rows: which texts, in order; None for all."""
        self._data, self._ends, self._rows, self.digest = data, ends, rows, digest

    @staticmethod
    def open(folder: Path, name: str, digest: str) -> Strings:
        """Raises OSError or ValueError where the files are missing or damaged."""
        data, ends = mapped(folder / f"{name}.utf8", np.uint8), mapped(folder / f"{name}.ends", np.int64)
        if len(data) != (ends[-1] if len(ends) else 0):
            raise ValueError(f"{folder / name} is cut")
        return Strings(data, ends, digest)

    def __len__(self) -> int:
        return len(self._ends if self._rows is None else self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._text(row) for row in range(len(self))[index]]
        return self._text(range(len(self))[index])

    def _text(self, index: int) -> str:
        return str(self.encoded(index), "utf-8", "surrogatepass")

    def encoded(self, index: int) -> bytes:
        """The UTF-8 bytes of a text."""
        row = index if self._rows is None else int(self._rows[index])
        return self._data[self._ends[row - 1] if row else 0 : self._ends[row]].tobytes()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), DECODED_AT_ONCE):
            yield from self[start : start + DECODED_AT_ONCE]

    def select(self, rows: NDArray[np.int64]) -> Strings:
        """The texts at `rows` [n], in that order. Its digest is of the whole's and the rows."""
        chosen = rows if self._rows is None else self._rows[rows]
        digest = hashlib.sha256(self.digest.encode() + np.ascontiguousarray(chosen, np.int64).tobytes()).hexdigest()
        return Strings(self._data, self._ends, digest, chosen)


def picked(items: Sequence[str], rows: Sequence[int] | NDArray[np.int64]) -> Sequence[str]:
    """The items at `rows`, in that order: without copies where they are in memory maps."""
    if isinstance(items, Strings):
        return items.select(np.asarray(rows, np.int64))
    return [items[int(row)] for row in rows]

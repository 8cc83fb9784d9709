"""Data on disk that all processes of a machine share: written once, memory-mapped, held once by the page cache."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from effir_dist.core.errors import InputError
from effir_dist.core.files import NO_LOCKS

T = TypeVar("T")

WRITTEN_AT_ONCE = 2**20
"""Bytes that wait in memory before they are written."""
UNFINISHED = "-building-"


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
    """Writes texts one by one for `Strings.open` (strings.py): the bytes and where each text ends."""

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

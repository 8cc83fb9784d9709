"""Folders on this machine or in a bucket, behind pathlib's interface: `place("s3://bucket/runs/demo")`.

A bucket has no rename, no lock and no append. It may answer late or not at all, and writes an object atomically. What
differs from a disk is handled here, in `files` and in `locks`; the rest of the code does not know the difference.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from effir_dist.core.bucket_errors import Fault, explained, fault_of
from effir_dist.core.errors import InputError

ATTEMPTS = 7
"""Tries of one request. The waits between them add up to 16 s."""
FIRST_WAIT = 0.25
"""Seconds between the first two tries; doubled each time."""
LONGEST_TRIES = 120.0
"""Seconds after which no other try is begun: Google's client tries again by itself, for half a minute each time."""
ANSWER_SECONDS = 15.0
"""Without a byte for so long a request counts as lost."""
EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}
T = TypeVar("T")
_fences: list[tuple[str, Callable[[], None]]] = []
"""Folders in buckets, and what is called before each write below: it raises where this process may not write."""


def place(location: str | Path) -> Path:
    """A path on this machine, or in a bucket where `location` is its URL. Raises InputError for any other URL."""
    text = str(location)
    if "://" not in text:
        return Path(location)
    scheme = text.split("://")[0]
    if scheme not in EXTRAS:
        raise InputError(f"{text!r} must be a folder or a bucket's URL (s3://..., gs://...)")
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # which asks by gRPC, around what is set below
    try:
        from upath import UPath

        bucket: Any = UPath
        found: Any = bucket(text.rstrip("/"), use_listings_cache=False, **_options(scheme))
        _ = found.fs
    except ImportError:
        raise InputError(f"{text} needs more packages; install `effir_dist[{EXTRAS[scheme]}]`") from None
    except Exception as error:  # Google's client looks for credentials at once
        if fault_of(error) is None:
            raise
        raise explained(text, error, Fault.REFUSED, 1) from None
    if scheme == "s3":
        found.fs.retries = 1
    return cast(Path, found)


def _options(scheme: str) -> dict[str, Any]:
    """The client's: every request ends, and `patiently` alone tries again."""
    if scheme == "s3":
        return {"config_kwargs": {"read_timeout": ANSWER_SECONDS, "retries": {"total_max_attempts": 1}}}
    import aiohttp

    return {"requests_timeout": aiohttp.ClientTimeout(sock_connect=ANSWER_SECONDS, sock_read=ANSWER_SECONDS)}


def is_remote(path: Path) -> bool:
    """Whether a path of `place` is in a bucket."""
    return not isinstance(path, Path)


def absolute(path: Path) -> str:
    """A path as text that another process, or another machine that shares the disk, can use."""
    return str(path) if is_remote(path) else str(path.resolve())


def patiently(path: Path, action: Callable[[], T]) -> T:
    """The result of a request to the bucket of `path`, tried again after errors that may pass. On a disk: one try.

    Raises FileNotFoundError where the bucket says that there is no such thing, FileExistsError where it says that a
    condition does not hold (412), and InputError where it refuses, answers anything else, or the tries are used up.
    """
    if not is_remote(path):
        return action()
    end = time.monotonic() + LONGEST_TRIES
    for attempt in itertools.count(1):
        try:
            return action()
        except Exception as error:
            fault = fault_of(error)
            if fault is None:
                raise
            if fault is Fault.MISSING:
                raise FileNotFoundError(str(path)) from None
            if fault is Fault.CONDITION:
                raise FileExistsError(str(path)) from error
            if fault is not Fault.PASSING or attempt >= ATTEMPTS or time.monotonic() > end:
                raise explained(path, error, fault, attempt) from None
        time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _unconditionally(path: Path, action: Callable[[], T]) -> T:
    """`patiently` for a request that has no condition."""
    try:
        return patiently(path, action)
    except FileExistsError as error:
        if not is_remote(path):
            raise
        raise explained(path, error, Fault.CONDITION, 1) from None


@contextlib.contextmanager
def fenced(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """Within the block, every write of this process below `folder` first calls check(), which may raise."""
    fence = (str(folder), check)
    _fences.append(fence)
    try:
        yield
    finally:
        _fences.remove(fence)


def _writing(path: Path, action: Callable[[], T]) -> T:
    """`_unconditionally` for a write: it passes the fences, and nothing but a bucket may be missing."""
    for folder, check in tuple(_fences):
        if str(path).startswith(f"{folder}/"):
            check()
    try:
        return _unconditionally(path, action)
    except FileNotFoundError as error:
        raise explained(path, error, Fault.MISSING, 1) from None


def exists(path: Path) -> bool:
    """Whether there is a file. Only "not found" means that there is none: any other error is raised."""
    if not is_remote(path):
        return path.is_file() or _hidden(path)
    remote: Any = path
    try:
        return bool(_unconditionally(path, lambda: remote.fs.info(remote.path))["type"] == "file")
    except FileNotFoundError:
        return False


def _hidden(path: Path) -> bool:
    """Whether there is a file that could not be seen: NFS remembers for up to a minute that there was none. Opening the
    folder asks the server."""
    if path.name not in names(path.parent):
        return False
    try:
        path.open("rb").close()
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises FileNotFoundError."""
    if not is_remote(path):
        return path.read_bytes()
    remote: Any = path
    # Google's client would ask for the size and then for so many bytes: too few, where the object grew in between.
    whole = {} if "s3" in remote.fs.protocol else {"concurrency": 1}
    return bytes(_unconditionally(path, lambda: remote.fs.cat_file(remote.path, **whole)))


def write_object(path: Path, data: bytes) -> None:
    """Write an object in a bucket, in place of one that is there."""
    remote: Any = path
    _writing(path, lambda: remote.fs.pipe_file(remote.path, data))


def create_object(path: Path, data: bytes) -> bool:
    """Write an object in a bucket. False where there is another already, which stays: the bucket decides who is first.

    Raises InputError as `patiently`, and where the bucket says that there is one and has none.
    """
    remote: Any = path

    def create() -> bool:
        try:
            patiently(path, lambda: remote.fs.pipe_file(remote.path, data, mode="create"))
        except FileExistsError as error:
            try:  # a repeated request may find the object of its own first try
                found = read_bytes(path)
            except FileNotFoundError:
                raise explained(path, error, Fault.CONDITION, 1) from None
            if data.startswith(found) and found != data:  # or the half of it, where a store keeps that of a cut request
                patiently(path, lambda: remote.fs.pipe_file(remote.path, data))
            return data.startswith(found)
        return True

    return _writing(path, create)


def names(folder: Path) -> list[str]:
    """Names in a folder, sorted; none where there is no such folder."""
    remote: Any = folder
    try:
        if not is_remote(folder):
            return sorted(child.name for child in folder.iterdir())
        found = _unconditionally(folder, lambda: remote.fs.ls(remote.path, detail=False, refresh=True))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in found if path.rstrip("/") != remote.path})


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if not is_remote(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    remote: Any = path
    for file in _files(path):
        _writing(path, lambda file=file: _delete(remote.fs, file))  # type: ignore[misc]


def delete_object(path: Path) -> None:
    """Delete an object in a bucket, if it is there, whatever fences it is behind."""
    remote: Any = path
    patiently(path, lambda: _delete(remote.fs, remote.path))


def _delete(files: Any, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        files.rm_file(name)


def _files(path: Path) -> list[str]:
    """Objects below a folder in a bucket, or the one of a file, as the client names them; none where nothing is."""
    remote: Any = path
    try:
        return sorted(_unconditionally(path, lambda: remote.fs.find(remote.path)))
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def _copy(path: Path) -> Iterator[tuple[Any, Path]]:
    """A path in a bucket and one on this machine's disk for its copy, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="effir-") as scratch:
        yield path, Path(scratch) / path.name


@contextlib.contextmanager
def read_locally(path: Path) -> Iterator[Path]:
    """The file or folder on this machine's disk: itself, or a copy for the time of the block. Raises
    FileNotFoundError where a bucket has neither."""
    if not is_remote(path):
        yield path
        return
    files = _files(path)
    if not files:
        raise FileNotFoundError(str(path))
    with _copy(path) as (remote, copy):
        for file in files:
            target = copy.joinpath(*Path(file).relative_to(remote.path).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            _unconditionally(path, lambda file=file, target=target: remote.fs.get_file(file, str(target)))  # type: ignore[misc]
        yield copy


@contextlib.contextmanager
def written_locally(path: Path, append: bool = False) -> Iterator[Path]:
    """A path on this machine's disk to write the file or folder `path` to: itself, or a copy that is uploaded when the
    block ends. It is uploaded after an error too, for the log's sake. append: a copy begins with what is there."""
    if not is_remote(path):
        yield path
        return
    with _copy(path) as (remote, copy):
        if append and exists(path):
            copy.write_bytes(read_bytes(path))
        try:
            yield copy
        finally:
            files = [copy] if copy.is_file() else [f for f in copy.rglob("*") if f.is_file()]
            for file in files:
                target = "/".join((remote.path, *file.relative_to(copy).parts))
                _writing(path, lambda file=file, target=target: remote.fs.put_file(str(file), target))  # type: ignore[misc]

"""Folders on this machine or in a bucket, behind pathlib's interface: `place("s3://bucket/runs/demo")`.

A bucket has no rename, no lock and no append. It may answer late or not at all, and writes an object atomically. What
differs from a disk is handled here, in `files` and in `locks`; the rest of the code does not know the difference.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from effir_dist.core.errors import InputError

ATTEMPTS = 7
"""Tries of one request. The waits between them, 0.25 s doubled each time, add up to 16 s."""
EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}
T = TypeVar("T")


def place(location: str | Path) -> Path:
    """A path on this machine, or in a bucket where `location` is its URL. Raises InputError for any other URL."""
    text = str(location)
    if "://" not in text:
        return Path(location)
    scheme = text.split("://")[0]
    if scheme not in EXTRAS:
        raise InputError(f"{text!r} must be a folder or a bucket's URL (s3://..., gs://...)")
    try:
        from upath import UPath

        bucket: Any = UPath
        found: Any = bucket(text.rstrip("/"), use_listings_cache=False)
        _ = found.fs
    except ImportError:
        raise InputError(f"{text} needs more packages; install `effir_dist[{EXTRAS[scheme]}]`") from None
    return cast(Path, found)


def is_remote(path: Path) -> bool:
    """Whether a path of `place` is in a bucket."""
    return not isinstance(path, Path)


def absolute(path: Path) -> str:
    """A path as text that another process, or another machine that shares the disk, can use."""
    return str(path) if is_remote(path) else str(path.resolve())


@cache
def _passing() -> tuple[type[BaseException], ...]:
    """Errors of a bucket that may pass: those of the clients that are installed."""
    import aiohttp

    try:
        from botocore.exceptions import BotoCoreError
    except ImportError:  # only Google's client is installed
        return (aiohttp.ClientError, OSError)
    return (BotoCoreError, aiohttp.ClientError, OSError)


def patiently(path: Path, action: Callable[[], T]) -> T:
    """The result of a request to the bucket of `path`, tried again after errors that may pass. On a disk: one try.

    Raises FileNotFoundError, FileExistsError and the like at once, and InputError where the bucket refuses the request
    or the tries are used up.
    """
    if not is_remote(path):
        return action()
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError):
            raise
        except PermissionError as error:
            raise InputError(f"the bucket of {path} refuses this ({error}); check credentials and policy") from None
        except _passing() as error:
            if attempt == ATTEMPTS - 1:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise InputError(
                    f"cannot reach {path} after {ATTEMPTS} tries ({reason}); check network and credentials, "
                    "then run the command again (a search goes on with --resume)"
                ) from None
            time.sleep(0.25 * 2**attempt)
    raise AssertionError("unreachable")


def exists(path: Path) -> bool:
    """Whether there is a file."""
    return bool(patiently(path, path.is_file))


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises FileNotFoundError."""
    return bytes(patiently(path, path.read_bytes))


def names(folder: Path) -> list[str]:
    """Names in a folder, sorted; none where there is no such folder."""
    try:
        return sorted(patiently(folder, lambda: [child.name for child in folder.iterdir()]))
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if not is_remote(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    remote: Any = path
    with contextlib.suppress(FileNotFoundError):
        patiently(path, lambda: remote.fs.rm(remote.path, recursive=True))


@contextlib.contextmanager
def _copy(path: Path) -> Iterator[tuple[Any, Path]]:
    """A path in a bucket and one on this machine's disk for its copy, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="effir-") as scratch:
        yield path, Path(scratch) / path.name


@contextlib.contextmanager
def read_locally(path: Path) -> Iterator[Path]:
    """The file or folder on this machine's disk: itself, or a copy for the time of the block."""
    if not is_remote(path):
        yield path
        return
    folder = patiently(path, path.is_dir)
    with _copy(path) as (remote, copy):
        patiently(path, lambda: remote.fs.get(remote.path, str(copy), recursive=folder))
        yield copy


@contextlib.contextmanager
def written_locally(path: Path) -> Iterator[Path]:
    """A path on this machine's disk to write the file or folder `path` to: itself, or a copy that is uploaded when the
    block ends. It is uploaded after an error too, for the log's sake."""
    if not is_remote(path):
        yield path
        return
    with _copy(path) as (remote, copy):
        try:
            yield copy
        finally:
            files = [copy] if copy.is_file() else [f for f in copy.rglob("*") if f.is_file()]
            for file in files:
                target = "/".join((remote.path, *file.relative_to(copy).parts))
                patiently(path, lambda file=file, target=target: remote.fs.put_file(str(file), target))  # type: ignore[misc]

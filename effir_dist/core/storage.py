"""Folders of this machine, or of a bucket, behind pathlib's interface: `place("s3://bucket/runs/demo")`.

A bucket has no rename, no lock and no append, answers late or not at all, and writes an object whole or not at all.
What differs from a disk is here, in `files` and in `locks`; all else treats both alike.
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
"""Tries of one request; the waits between them, 0.25 s doubled each time, add up to 16 s."""
EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}
T = TypeVar("T")


def place(location: str | Path) -> Path:
    """A path of this machine, or of a bucket where `location` is a URL. Raises InputError for any other URL."""
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
    """A path as text that means the same in another process on another machine (that shares the disk)."""
    return str(path) if is_remote(path) else str(path.resolve())


@cache
def _passing() -> tuple[type[BaseException], ...]:
    """What a bucket may raise today and not tomorrow: the errors of the clients that are installed."""
    import aiohttp

    try:
        from botocore.exceptions import BotoCoreError
    except ImportError:  # Google's buckets alone
        return (aiohttp.ClientError, OSError)
    return (BotoCoreError, aiohttp.ClientError, OSError)


def patiently(path: Path, action: Callable[[], T]) -> T:
    """The result of a request to the bucket of `path`, tried again where it fails for a reason that may pass.

    Raises what says that a file is or is not there at once, InputError where the bucket refuses or patience ends.
    On this machine's disk it is tried once.
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
    """What a file holds. Raises FileNotFoundError."""
    return bytes(patiently(path, path.read_bytes))


def names(folder: Path) -> list[str]:
    """What lies in a folder, sorted; nothing where there is no such folder."""
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
    """A path in a bucket, and a place on this machine's disk for a copy of it, for the time of the block."""
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
    """A path on this machine's disk to write the file or the files of the folder `path` to: itself, or one that is
    uploaded when the block ends, also after an error: a log is worth keeping then."""
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

"""One driver per run: a lock of the kernel on a disk, a lease in a bucket."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effir_dist.core.errors import InputError
from effir_dist.core.files import disk_errors
from effir_dist.core.storage import is_remote, patiently, read_bytes, remove
from effir_dist.core.values import Json

BEAT_SECONDS = 10.0
LEASE_SECONDS = 35.0
"""A lease that was not renewed for this long belongs to a dead driver."""
COPIED = {"id": ""}
"""Stands for a disk's lock file that was copied to a bucket with its run: nobody holds it."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock `folder` for this process. Raises InputError where another process has it.

    On a disk the kernel drops the lock with the process, kill -9 included. In a bucket the lock is an object that its
    holder writes again every 10 s. One that has not changed for 35 s is taken over: a resume after a kill waits.
    """
    with _leased(folder / "lock") if is_remote(folder) else _flocked(folder / "lock"):
        yield


@contextlib.contextmanager
def _flocked(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with disk_errors(path):
            _flock(stack.enter_context(open(path, "a+", encoding="utf-8")), path.parent)
        yield


def _flock(file: io.TextIOWrapper, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
            logging.getLogger(__name__).warning("%s cannot be locked: start no second search there", folder)
            return
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        file.seek(0)
        raise _taken(folder, file.read().strip()) from None
    file.truncate(0)
    file.write(f"{_who()}\n")
    file.flush()


def _who() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _taken(folder: Path, holder: str) -> InputError:
    return InputError(
        f"{folder} is being searched by {holder or 'another process'}; wait for it, stop it, or choose another --name"
    )


@contextlib.contextmanager
def _leased(path: Path) -> Iterator[None]:
    own = uuid.uuid4().hex
    while not _create(path, own):
        _wait_for_the_dead(path)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, own, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if _holder(path).get("id") == own:
            remove(path)


def _lease(own: str) -> bytes:
    return json.dumps({"id": own, "who": _who(), "beat": uuid.uuid4().hex}).encode()


def _create(path: Path, own: str) -> bool:
    """Make the lock's object. False where there is one: the bucket decides who is first."""
    remote: Any = path
    try:
        patiently(path, lambda: remote.fs.pipe_file(remote.path, _lease(own), mode="create"))
    except FileExistsError:
        # A repeated request may find the object of its own first try.
        return bool(_holder(path).get("id") == own)
    return True


def _holder(path: Path) -> Json:
    """The lease at `path`. Empty where there is none, COPIED where there is something else."""
    try:
        found = json.loads(read_bytes(path))
    except FileNotFoundError:
        return {}
    except ValueError:
        return COPIED
    return found if isinstance(found, dict) else COPIED


def _wait_for_the_dead(path: Path) -> None:
    """Remove a lease that is not renewed, or what is no lease. Raises InputError for one that is renewed."""
    before, start = _holder(path), time.monotonic()
    while "beat" in before and time.monotonic() - start < LEASE_SECONDS:
        time.sleep(min(1.0, LEASE_SECONDS / 5))
        now = _holder(path)
        if now.get("beat") != before.get("beat"):
            if now:
                raise _taken(path.parent, str(now.get("who", "")))
            return
    if before:
        remove(path)


def _beat(path: Path, own: str, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(InputError):  # the bucket cannot be reached: whoever writes records reports it
            patiently(path, lambda: path.write_bytes(_lease(own)))

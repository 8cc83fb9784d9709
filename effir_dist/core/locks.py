"""One driver a run: a lock of the kernel's on a disk, a lease in a bucket."""

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

BEAT_SECONDS = 10.0
LEASE_SECONDS = 35.0
"""A lease that did not beat for so long is a dead driver's."""
COPIED = {"id": ""}
"""A disk's lock that came along when a run was copied to a bucket: nobody's."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone. Raises InputError where another process has it.

    On a disk the kernel drops the lock with the process, kill -9 included. In a bucket the lock is an object that its
    holder writes anew every 10 s; one that stands still for 35 s is taken over, so resuming after a kill waits so long.
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
    """Make the lock's object; False where there is one (the bucket decides who is first)."""
    remote: Any = path
    try:
        patiently(path, lambda: remote.fs.pipe_file(remote.path, _lease(own), mode="create"))
    except FileExistsError:
        # A request that was repeated may have met its own first try.
        return bool(_holder(path).get("id") == own)
    return True


def _holder(path: Path) -> dict[str, Any]:
    """The lease at `path`; empty where there is none, COPIED where something else is there."""
    try:
        found = json.loads(read_bytes(path))
    except FileNotFoundError:
        return {}
    except ValueError:
        return COPIED
    return found if isinstance(found, dict) else COPIED


def _wait_for_the_dead(path: Path) -> None:
    """Remove a lease that stands still, or what is no lease; raises InputError for one that beats."""
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
        with contextlib.suppress(InputError):  # out of reach: what matters is written by others, who say so
            patiently(path, lambda: path.write_bytes(_lease(own)))

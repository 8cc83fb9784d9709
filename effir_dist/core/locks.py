"""One driver per run: a lock of the kernel on a disk, a lease in a bucket."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effir_dist.core.errors import InputError
from effir_dist.core.files import NO_LOCKS, disk_errors
from effir_dist.core.storage import create_object, delete_object, fenced, is_remote, read_bytes
from effir_dist.core.values import Json

BEAT_SECONDS = 10.0
LEASE_SECONDS = 35.0
"""A lease that was not renewed for this long belongs to a dead driver."""
INTERRUPT = signal.SIGUSR2
"""Stops the main thread of a driver whose lease is lost."""
COPIED = {"id": ""}
"""Stands for a disk's lock file that was copied to a bucket with its run: nobody holds it."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[str]:
    """Lock `folder` for this process; yields the lease's id, empty on a disk. Raises InputError where another has it.

    On a disk the kernel drops the lock with the process, kill -9 included. In a bucket the lock is an object that its
    holder writes again every 10 s. One that has not changed for 35 s is taken over: a resume after a kill waits. A
    holder that was cut off for longer finds the other's lease before it writes anything again, and is interrupted.
    """
    if is_remote(folder):
        with _leased(folder / "lock") as own:
            yield own
    else:
        with _flocked(folder / "lock"):
            yield ""


@contextlib.contextmanager
def working_for(folder: Path, lease: str) -> Iterator[None]:
    """Within the block this process, a worker, writes below `folder` only while the driver with that lease holds it.

    Raises InputError, at a write, once another driver has the folder. An empty lease (a disk's) is not looked after.
    """

    def check() -> None:
        if _holder(folder / "lock").get("id") != lease:
            raise taken_over(folder)

    with fenced(folder, check) if lease else contextlib.nullcontext():
        yield


def taken_over(folder: Path) -> InputError:
    """What a driver that lost its lease, and its workers, end with."""
    return InputError(
        f"another driver has taken over {folder} while this one was cut off from the bucket; this one stops and leaves "
        "nothing behind: follow the other, or wait for its end"
    )


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
        if error.errno in NO_LOCKS:
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


class _Lease:
    """A lease that this process holds, or held."""

    def __init__(self, path: Path) -> None:
        self.path, self.own = path, uuid.uuid4().hex
        self.ended, self.lost = threading.Event(), False
        self.confirmed = time.monotonic()
        """When the last request was sent that found, or made, the lease ours."""

    def look(self) -> None:
        """Raises InputError where the lease is another's, or nobody's."""
        sent = time.monotonic()
        if self.lost or _holder(self.path).get("id") != self.own:
            self.lost = True
            raise taken_over(self.path.parent)
        self.confirmed = sent

    def check(self) -> None:
        """`look`, where so much time has passed that another may have taken it over."""
        if self.lost or time.monotonic() - self.confirmed > LEASE_SECONDS / 2:
            self.look()

    def beat(self, main: int | None) -> None:
        """Renew the lease until it ends or is lost. main: the main thread, which is then interrupted as by Ctrl-C."""
        while not self.ended.wait(BEAT_SECONDS):
            try:
                self.look()
                # One try, right after the look: a late one could fall on another's lease.
                _once(self.path, _lease(self.own))
            except InputError:  # the bucket cannot be reached: whoever writes records reports it
                if self.lost and main is not None and not self.ended.is_set():
                    signal.pthread_kill(main, INTERRUPT)
                if self.lost:
                    return

    @contextlib.contextmanager
    def beating(self, main: int | None) -> Iterator[None]:
        """For the time of the block, `beat` in a thread."""
        thread = threading.Thread(target=self.beat, args=(main,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.ended.set()
            thread.join()


@contextlib.contextmanager
def _interruptible() -> Iterator[int | None]:
    """For the time of the block INTERRUPT raises KeyboardInterrupt in the main thread, whose id this yields; None in
    any other thread. SIGINT itself would not do: what a script starts in the background ignores it."""
    here = threading.current_thread()
    if here is not threading.main_thread():
        yield None
        return
    before = signal.signal(INTERRUPT, signal.default_int_handler)
    try:
        yield here.ident
    finally:
        signal.signal(INTERRUPT, before)


@contextlib.contextmanager
def _leased(path: Path) -> Iterator[str]:
    lease = _Lease(path)
    while not create_object(path, _lease(lease.own)):
        _wait_for_the_dead(path)
    lease.confirmed = time.monotonic()
    try:
        with _interruptible() as main, lease.beating(main), fenced(path.parent, lease.check):
            yield lease.own
    except BaseException as error:
        if lease.lost and not isinstance(error, InputError):
            raise taken_over(path.parent) from None
        raise
    finally:
        if not lease.lost and _holder(path).get("id") == lease.own:
            delete_object(path)


def _once(path: Path, data: bytes) -> None:
    remote: Any = path
    with contextlib.suppress(Exception):  # the next look finds out
        remote.fs.pipe_file(remote.path, data)


def _lease(own: str) -> bytes:
    return json.dumps({"id": own, "who": _who(), "beat": uuid.uuid4().hex}).encode()


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
    if before and _holder(path) == before:
        delete_object(path)

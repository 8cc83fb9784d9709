"""A file from the web whose MD5 sum is known: kept beside as NAME.part until it is whole and right.

A download that is cut off goes on where it ended, in this process or in the next one.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from effir_dist.core.errors import InputError
from effir_dist.core.files import free_space

CHUNK = 2**20
SECONDS = 60.0
"""Without a byte, after which a connection counts as cut off."""
SAID_FROM = 50 * 10**6
"""Bytes of a file from which on the download says how far it is."""


@dataclass(frozen=True)
class Remote:
    """A file on the web."""

    url: str
    md5: str
    published: str
    """Who says so, for errors."""


class Unreachable(Exception):
    """Nothing came from an address; the reason in words."""


def fetch(remote: Remote, file: Path) -> Path:
    """`file`, downloaded where it is not there. It is whole and has the MD5 sum.

    Raises Unreachable where nothing can be had, and InputError for another sum, an error of the server, or a full disk.
    """
    if file.is_file():
        return file
    part = file.with_name(f"{file.name}.part")
    file.parent.mkdir(parents=True, exist_ok=True)
    resumed = part.is_file()
    if not resumed or md5_of(part) != remote.md5:
        _complete(remote, part)
    if resumed and md5_of(part) != remote.md5:
        part.unlink()  # what was there may have been of another file
        _complete(remote, part)
    check_md5(part, remote)
    os.replace(part, file)
    return file


def md5_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def check_md5(file: Path, remote: Remote) -> None:
    """Raises InputError where a file is not the published one; what was downloaded is removed."""
    found = md5_of(file)
    if found == remote.md5:
        return
    if file.name.endswith(".part"):
        file.unlink()
    raise InputError(
        f"{file.name.removesuffix('.part')} has the MD5 sum {found}, and {remote.published} says {remote.md5}: "
        f"{remote.url if file.name.endswith('.part') else file} is damaged or another file; take it from elsewhere"
    )


def _complete(remote: Remote, part: Path) -> None:
    """Append what is missing, as long as something comes."""
    while True:
        had = _size(part)
        try:
            if _append(remote.url, part):
                return
            reason = "the connection ended early"
        except Unreachable as error:
            reason = str(error)
        if _size(part) <= had:
            kept = f"; {had / 1e6:,.1f} MB are kept, and the same command goes on from there" if had else ""
            raise Unreachable(f"{reason}{kept}")


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _append(url: str, part: Path) -> bool:
    """One request for the rest of a file. Whether all of it is there."""
    start = _size(part)
    with _opened(url, start) as answer:
        if start and answer.status != http.client.PARTIAL_CONTENT:
            start = 0  # the server sends all of it again
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else 0
        _check_room(part, total - start)
        with part.open("r+b" if start else "wb") as stream:
            stream.seek(start)
            for chunk in _said(_chunks(answer), part.name.removesuffix(".part"), start, total):
                stream.write(chunk)
                stream.flush()  # a kill loses nothing that came
            os.fsync(stream.fileno())
    return not total or _size(part) >= total


def _opened(url: str, start: int) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=SECONDS)
        return answer
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _opened(url, 0)  # all of it is there, or more: its sum decides
        raise InputError(f"{url} answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(str(getattr(error, "reason", error))) from None


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := answer.read(CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException):
        return  # cut off: what came is kept


def _said(chunks: Iterator[bytes], name: str, start: int, total: int) -> Iterator[bytes]:
    """The chunks; each tenth of a large file is told."""
    done = start
    for chunk in chunks:
        before, done = done, done + len(chunk)
        if total >= SAID_FROM and 10 * before // total < 10 * done // total:
            print(f"{name}: {100 * done // total} % of {total / 1e6:,.0f} MB", file=sys.stderr, flush=True)
        yield chunk


def _check_room(part: Path, needed: int) -> None:
    existing, free = free_space(part.parent)
    if free < needed:
        raise InputError(
            f"{existing} has {free / 1e9:.2f} GB free, and {part.name.removesuffix('.part')} takes "
            f"{needed / 1e9:.2f} GB; free some, or set XDG_CACHE_HOME to a disk with room"
        )


def answers(url: str) -> None:
    """Raises Unreachable or InputError where an address has no such file."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=SECONDS).close()
    except urllib.error.HTTPError as error:
        raise InputError(f"{url} answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(str(getattr(error, "reason", error))) from None

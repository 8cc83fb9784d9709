"""Where a process prints, libraries in C included: into a file for a while, or nowhere (`--quiet`)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import argparse


@dataclass(frozen=True)
class Streams:
    """What a user sees, whatever is redirected."""

    out: TextIO
    err: TextIO


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """The option `--quiet`."""
    parser.add_argument("--quiet", action="store_true", help="print the result alone, and errors and warnings (stderr)")


@contextlib.contextmanager
def silenced(quiet: bool) -> Iterator[Streams]:
    """Drop what this process prints within the block, where `quiet` asks for it: all but what goes to these streams."""
    if not quiet:
        yield Streams(sys.stdout, sys.stderr)
        return
    with contextlib.ExitStack() as stack:
        out, err = (stack.enter_context(os.fdopen(os.dup(number), "w")) for number in (1, 2))
        nowhere = stack.enter_context(open(os.devnull, "wb"))
        with redirected(nowhere.fileno()):
            yield Streams(out, err)


@contextlib.contextmanager
def redirected(file: int) -> Iterator[None]:
    """Send both streams of this process to a file by its descriptor."""
    kept = [os.dup(number) for number in (1, 2)]
    _flush()
    for number in (1, 2):
        os.dup2(file, number)
    try:
        yield
    finally:
        _flush()
        for number, original in zip((1, 2), kept, strict=True):
            os.dup2(original, number)
            os.close(original)


def _flush() -> None:
    """Python's own buffers: what was printed before a change of file belongs to the file before."""
    sys.stdout.flush()
    sys.stderr.flush()

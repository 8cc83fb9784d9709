"""Cases of a GPU measured in a process of their own, which is watched: none of them ends the others.

A case that fails, crashes, hangs or runs out of memory is a row with its reason. Where the process is of no use any
more, the next case begins in a fresh one.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.speed import frame, gpu, trained
from benchmarks.speed.frame import Options
from benchmarks.speed.worker import ENDED, UNUSABLE, Find, measure_all

CASE_SECONDS = 100.0
"""After which a case is given up."""
WORTH_STARTING = 5.0
"""Seconds without which no case is begun."""


def rows(
    wanted: Sequence[str], options: Options, seconds: float, say: Callable[[str], None], find: Find = gpu.cases
) -> Iterator[dict[str, Any]]:
    """The rows of the cases `wanted`, as they come; those for which there was no time too. Each has its `key`."""
    left, until = deque(wanted), time.monotonic() + seconds
    most = math.inf if options.small else CASE_SECONDS
    with trained.scratch() as kept:
        options = replace(options, kept=Path(kept))
        while left and until - time.monotonic() > WORTH_STARTING:
            with Worker(list(left), options, until, find) as worker:
                for row in _heard(worker, left, until, most):
                    say(f"{row['key']}: {frame.summary(row)}")
                    yield row
    for key in left:
        say(f"{key}: not begun")
        yield _failed(key, f"not begun: {seconds:.0f} s were over") | {"begun": False}


def _heard(worker: Worker, left: deque[str], until: float, most: float) -> Iterator[dict[str, Any]]:
    """What one worker measures, until it has done all, is of no use any more, or the time is up. Takes from `left`."""
    worker.next(until)  # it has imported all
    while left:
        begun = time.monotonic()
        end = min(until, begun + most)
        while (message := worker.next(end)) is not None:
            if message == ENDED:
                break
            yield {**message, "key": left[0]}
        if message is None:
            yield _failed(left.popleft(), worker.fate(time.monotonic() - begun))
            return
        left.popleft()


def _failed(key: str, why: str) -> dict[str, Any]:
    return {**frame.failed_row(*gpu.split(key), why), "key": key}


class Worker:
    """A process that measures `keys`, one after the other; it ends with the `with` block, and its children too."""

    def __init__(self, keys: list[str], options: Options, until: float, find: Find) -> None:
        context = multiprocessing.get_context("spawn")
        self._messages, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=measure_all, args=(sender, keys, options, until, find))
        self._process.start()
        sender.close()

    def __enter__(self) -> Worker:
        return self

    def next(self, end: float) -> dict[str, Any] | str | None:
        """A row, ENDED after a case, or None where the process is gone or silent until `end` (`time.monotonic`)."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            if self._messages.poll(max(0.0, end - time.monotonic())):
                message: dict[str, Any] | str = self._messages.recv()
                return message
        return None

    def fate(self, seconds: float) -> str:
        """Why nothing more comes."""
        self._process.join(1)
        code = self._process.exitcode
        if code is None:
            return f"stopped after {seconds:.0f} s"
        return "the GPU answered with errors only" if code == UNUSABLE else f"its process ended with exit code {code}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._messages.close()

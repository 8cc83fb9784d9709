"""The process that measures the cases of a GPU. `watched` starts it and hears it."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.speed import frame, gpu
from benchmarks.speed.frame import Cases, Options

Find = Callable[[str, Options], Cases]
"""A subject's cases: `gpu.cases`, or a test's own."""

ENDED = "ended"
"""What it sends when it can begin, and after each case's rows."""
UNUSABLE = 3
"""Its exit code where the GPU answers with errors only, as after an illegal access."""
LIBRARIES = ("transformers", "sentence_transformers", "deepspeed", "peft")
ROUND_SECONDS = 8.0
"""For the rounds of a comparison at most; the frame's LEAST rounds are always run."""


def measure_all(sender: Connection, keys: list[str], options: Options, until: float, find: Find) -> None:
    """What the process does. `until`: of `time.monotonic`, which all processes of a machine share."""
    os.setpgrp()  # so that what a case starts is killed with it
    _begin(options)
    sender.send(ENDED)
    for number, key in enumerate(keys):
        seconds = min(ROUND_SECONDS, (until - time.monotonic()) / (len(keys) - number))
        for row in _rows(key, options, seconds, find):
            sender.send(row)
            if row["failed"] and not _usable():
                os._exit(UNUSABLE)
        sender.send(ENDED)


def _begin(options: Options) -> None:
    """All that is imported once, so that no case's time has it in."""
    import torch

    torch.set_num_threads(options.threads)
    for name in LIBRARIES if options.device == "cuda" else ():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    torch.zeros(1, device=options.device)  # the GPU's own start


def _rows(key: str, options: Options, seconds: float, find: Find) -> Iterator[dict[str, Any]]:
    """A case's rows, the last of them perhaps one that says why it failed; afterwards its memory is free."""
    subject, name = gpu.split(key)
    try:
        yield from _measured(subject, name, options, seconds, find)
    except frame.ERRORS as error:
        yield frame.failed_row(subject, name, frame.reason(error))
    free()


def _measured(subject: str, name: str, options: Options, seconds: float, find: Find) -> Iterator[dict[str, Any]]:
    for comparison in find(subject, options)[name]():
        yield {"subject": subject, **frame.measure(comparison, seconds, options)}


def free() -> None:
    """So that a case's memory is its own."""
    import torch

    from effir_dist.models import pretrained

    pretrained.forget()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _usable() -> bool:
    """Whether the GPU still answers."""
    import torch

    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True

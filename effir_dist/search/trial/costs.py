"""What a trial costs: seconds and memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import socket
import time
from pathlib import Path

import torch
import torch.distributed as dist

from effir_dist.core.files import now
from effir_dist.training.trainer import TrainOutcome


class Clock:
    """What a trial costs."""

    def __init__(self) -> None:
        gc.unfreeze()
        release_memory()
        gc.freeze()  # what stays for later trials is not looked through again during this one
        self.start = time.perf_counter()
        self.started = now()
        _reset_peak_memory()

    def costs(self, outcome: TrainOutcome, score_seconds: float) -> dict[str, float]:
        """The measures of a record that are seconds or memory. Setting up the engine counts as `other`."""
        total = time.perf_counter() - self.start
        train_seconds = outcome.seconds - outcome.engine_seconds
        return {
            "train_seconds": train_seconds,
            "score_seconds": score_seconds,
            "other_seconds": total - train_seconds - score_seconds,
            "total_seconds": total,
            "peak_memory_bytes": peak_memory(),
        }


def hosts() -> str:
    """Where this process runs, and the other ranks where there are several: names in order of the ranks, with ','."""
    names = [socket.gethostname()]
    if dist.is_initialized() and dist.get_world_size() > 1:
        names *= dist.get_world_size()
        dist.all_gather_object(names, names[0])
    return ",".join(dict.fromkeys(names))


def release_memory() -> None:
    """Give freed memory back: glibc keeps what a training freed in pieces, half a gigabyte more with each trial."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak is then the process's, over all its trials
        return


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else of this process, since the trial began."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

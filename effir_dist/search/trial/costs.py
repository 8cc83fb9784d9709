"""What a trial costs: seconds and memory."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import resource
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from effir_dist.core.files import now
from effir_dist.evaluate.ranks import exchanged
from effir_dist.runs.records import Values
from effir_dist.training.train_state import TrainState
from effir_dist.training.trainer import TrainOutcome

PARTS = ("train_seconds", "score_seconds", "other_seconds", "total_seconds")


class Clock:
    """What a trial costs, what it took on lower rungs and in processes that were cut off among it."""

    def __init__(self, lower: Sequence[Values] = ()) -> None:
        """lower: what the lower rungs took, a mapping of measures each."""
        self.lower = {name: sum(each.get(name, 0.0) for each in lower) for name in PARTS}
        self.train_before, self.before = self.lower["train_seconds"], self.lower["total_seconds"]
        self.train_start, self.saved = 0.0, False
        gc.unfreeze()
        release_memory()
        gc.freeze()  # what stays for later trials is not looked through again during this one
        self.start = time.perf_counter()
        self.started = now()
        _reset_peak_memory()

    def train_begins(self) -> None:
        """What follows is training, as far as checkpoints are concerned."""
        self.train_start = time.perf_counter()

    def stamped(self, state: TrainState) -> TrainState:
        """A state with the seconds up to now, for its checkpoint."""
        self.saved, now = True, time.perf_counter()
        trained, trial = self.train_before + now - self.train_start, self.before + now - self.start
        return dataclasses.replace(state, train_seconds=trained, trial_seconds=trial)

    def goes_on_from(self, state: TrainState) -> None:
        """A checkpoint of another process was found. One that ended a lower rung knows less than the rung's score."""
        if not self.saved and state.trial_seconds > self.before:
            self.before, self.train_before = state.trial_seconds, max(state.train_seconds, self.train_before)

    def costs(self, outcome: TrainOutcome, score_seconds: float) -> dict[str, float]:
        """The measures of a record that are seconds or memory, lower rungs included. Setting up the engine counts as
        `other`."""
        total = self.before + time.perf_counter() - self.start
        trained = self.train_before + outcome.seconds - outcome.engine_seconds
        scored = self.lower["score_seconds"] + score_seconds
        seconds = {"train_seconds": trained, "score_seconds": scored, "other_seconds": total - trained - scored}
        return {**seconds, "total_seconds": total, "peak_memory_bytes": peak_memory()}

    def rung_costs(self, outcome: TrainOutcome, score_seconds: float) -> dict[str, float]:
        """The same of a rung: without what those below it took."""
        return {name: value - self.lower.get(name, 0.0) for name, value in self.costs(outcome, score_seconds).items()}


def hosts() -> str:
    """Where this process runs, and the other ranks where there are several: names in order of the ranks, with ','."""
    return ",".join(dict.fromkeys(exchanged(socket.gethostname())))


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

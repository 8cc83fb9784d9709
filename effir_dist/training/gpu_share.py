"""Several trials on a GPU: what each may take of its memory, how many fit by prediction, and what would fit.

A trial that has a part of a GPU may fill that part of its memory with tensors, less what CUDA takes for its process
(`memory.CONTEXT`). torch's allocator is told so: one that wants more fails by itself, and is tried with less.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from effir_dist.core.errors import InputError
from effir_dist.core.search_settings import trials_on_a_gpu
from effir_dist.core.settings import ResourceConfig, RunConfig
from effir_dist.models.families.base import ModelDict
from effir_dist.training import memory
from effir_dist.training.memory import CONTEXT, SPARE

MOST = 8
"""Trials that `auto` lets share a GPU: with more at a time, more plans are proposed before the others' scores."""
FEW = 4
"""Trials that have room on a GPU from which on `--dry-run` points that out."""


def limit_memory(gpus: float) -> None:
    """Keep this process to its part of the GPU that it was given; to all of it where that is a whole one."""
    import torch

    if gpus and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(memory.own_bytes(total, gpus) / total)


def fitting(peak: float, capacity: float) -> int:
    """How many trials of that predicted peak have room on a GPU at the same time; bytes."""
    return int(capacity // (peak / (1 - SPARE) + CONTEXT))


def settled(config: RunConfig, model: ModelDict, cpus: float) -> ResourceConfig:
    """What `resources.gpus_per_trial=auto` comes to on GPUs of which each has so many CPUs; other settings stay.

    Raises InputError where the GPU's memory is not known.
    """
    resources = config.resources
    if resources.gpus_per_trial != "auto":
        return resources
    if resources.workers_per_trial > 1 or not cpus:
        return dataclasses.replace(resources, gpus_per_trial=None)
    capacity = memory.capacity_of(config)
    if not capacity:
        raise InputError(
            "resources.gpus_per_trial=auto goes by a GPU's memory, and no GPU of this machine tells it: say it by "
            "resources.gpu_memory=80 (GB), or give a number such as 0.125"
        )
    peak = memory.predict(model, config, memory.dtype_of(config)).peak
    return dataclasses.replace(resources, gpus_per_trial=part(min(MOST, int(cpus), fitting(peak, capacity))))


def part(trials: int) -> float:
    """Of a GPU that so many trials share, each one's; down to Ray's grain of a ten-thousandth."""
    return math.floor(1e4 / max(1, trials)) / 1e4


def line(gpus: float, capacity: float) -> str:
    """How many trials of so many GPUs share one, and what each may fill of its bytes (0: not known); empty where none
    does."""
    trials = trials_on_a_gpu(gpus)
    if trials == 1:
        return ""
    of = f" of {_gb(capacity)}, each may fill {_gb(memory.own_bytes(capacity, gpus))}" if capacity else ""
    return f"{trials} trials share a GPU{of}"


def summary(model: ModelDict, config: RunConfig) -> list[str]:
    """Lines for `--dry-run`: what a trial takes of a GPU, and how many share one."""
    resources = config.resources
    if not config.train.trains:
        return []
    dtype, capacity = memory.dtype_of(config), memory.capacity_of(config)
    found = memory.predict(model, config, dtype)
    if not resources.may_share:
        return [*memory.summary(model, config), *_hint(resources, fitting(found.peak, capacity))]
    lines = [memory.line("memory", found, dtype)]
    if resources.gpus_per_trial == "auto":
        return [*lines, _automatic(found.peak, capacity)]
    needs = "" if capacity else f", which then needs {_gb(resources.on_a_gpu * (found.peak / (1 - SPARE) + CONTEXT))}"
    return [*lines, line(resources.gpus or 0.0, capacity) + needs]


def _hint(resources: ResourceConfig, trials: int) -> list[str]:
    """That a GPU is large for a trial of one worker, where it is: so many have room on it."""
    if trials < FEW or resources.workers_per_trial > 1 or resources.gpus not in (None, 1):
        return []
    return [f"{trials} such trials have room on a GPU: --gpus-per-trial auto shares it"]


def _automatic(peak: float, capacity: float) -> str:
    if not capacity:
        return "how many trials share a GPU is settled by its memory when the search starts (resources.gpu_memory)"
    trials = max(1, min(MOST, fitting(peak, capacity)))
    return f"resources.gpus_per_trial=auto: {trials} on a GPU of {_gb(capacity)}, or as many as it has CPUs, if fewer"


def warnings(model: ModelDict, config: RunConfig) -> list[str]:
    """That the trials of a GPU may not fit it together, and what would; none where its bytes are not known."""
    found = _Fit.of(model, config)
    if found is None or found.memory.peak <= found.own * (1 - SPARE):
        return []
    takes = f"of which {SPARE:.0%} stay free, and the largest takes up to {_gb(found.memory.peak)}"
    return [f"{found.text}, {takes}: {found.would_fit}"]


def check(model: ModelDict, config: RunConfig) -> None:
    """Raises InputError where not even weights, gradients and optimizer of the unpruned model fit a trial's part."""
    found = _Fit.of(model, config)
    if found is not None and found.memory.least > found.own:
        raise InputError(
            f"{found.text}, but weights, gradients and optimizer of the unpruned model alone take "
            f"{_gb(found.memory.least)}: {found.would_fit}"
        )


@dataclass(frozen=True)
class _Fit:
    """Trials that share a GPU whose memory is known, and what the largest takes by prediction."""

    model: ModelDict
    config: RunConfig
    memory: memory.Memory
    dtype: str
    capacity: float

    @staticmethod
    def of(model: ModelDict, config: RunConfig) -> _Fit | None:
        """None where none trains, shares a GPU, or knows its memory."""
        capacity = memory.capacity_of(config)
        if not capacity or config.resources.on_a_gpu == 1 or not config.train.trains:
            return None
        dtype = memory.dtype_of(config)
        return _Fit(model, config, memory.predict(model, config, dtype), dtype, capacity)

    @property
    def gpus(self) -> float:
        return self.config.resources.gpus or 1.0

    @property
    def own(self) -> float:
        """Bytes that each may fill."""
        return memory.own_bytes(self.capacity, self.gpus)

    @property
    def text(self) -> str:
        return line(self.gpus, self.capacity)

    @property
    def would_fit(self) -> str:
        """Changes with which they fit: fewer of them, or settings that take less."""
        fewer = min(trials_on_a_gpu(self.gpus) - 1, fitting(self.memory.peak, self.capacity))
        changes = [f"resources.gpus_per_trial={part(fewer):g}"] if fewer else []
        less = memory.advice(self.model, self.config, self.dtype, self.own)
        changes += [less] if less else []
        return f"{' or '.join(changes)} would fit" if changes else "nothing short of a GPU with more memory would fit"


def _gb(number: float) -> str:
    return f"{number / 1e9:.1f} GB"

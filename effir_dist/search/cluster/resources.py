"""What a trial takes of the cluster's nodes, and how many run at a time."""

from __future__ import annotations

import dataclasses
import glob
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from effir_dist.core.errors import InputError
from effir_dist.core.settings import ResourceConfig, RunConfig
from effir_dist.models.families.base import ModelDict
from effir_dist.search.cluster.nodes import Node, amounts, at_its_largest
from effir_dist.training import gpu_share

WAITING_CPUS = 0.01
"""What the process takes that waits for a trial's several workers."""
MOST_USUAL_CPUS = 8
"""Threads of a worker without a GPU by default: a small encoder gains little from more."""


@dataclass(frozen=True)
class Resources:
    """What one trial takes, all its workers together, and how many trials run at a time."""

    workers: int
    cpus: float
    gpus: float
    concurrent: int

    @property
    def of_a_worker(self) -> tuple[float, float]:
        """CPUs and GPUs of each worker."""
        return self.cpus / self.workers, self.gpus / self.workers

    @property
    def alone(self) -> Resources:
        """The same for work beside which nothing runs: of a GPU all."""
        return dataclasses.replace(self, gpus=float(math.ceil(self.gpus)))


def local_gpus() -> int:
    """GPUs that this machine shows to a program started here."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() and device.strip() != "-1"])
    return len(glob.glob("/dev/nvidia[0-9]*"))


def check_local(config: ResourceConfig) -> None:
    """Before Ray starts on this machine alone. Raises InputError where a trial asks for more than it has."""
    asked = {"GPU": (config.gpus or 0.0, local_gpus()), "CPU": (config.cpus_per_trial or 0.0, _local_cpus())}
    for kind, (wanted, present) in asked.items():
        if wanted > present:
            raise InputError(
                f"a trial asks for {wanted:g} {kind}s, but this machine has {present}; lower "
                f"--{kind.lower()}s-per-trial, or run on a cluster that has them (--address)"
            )
    if config.workers_per_trial > _local_cpus():
        raise InputError(
            f"--workers-per-trial {config.workers_per_trial} needs a CPU for each, but this machine has {_local_cpus()}"
        )


def _local_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def settle(config: ResourceConfig, present: Iterable[Node], may_come: Iterable[Node] = ()) -> Resources:
    """What a trial takes, and how many run at a time, on a cluster with these nodes now and at its largest.

    A worker runs on one node; the workers of a trial may be on several. Raises InputError where not a single trial will
    ever fit.
    """
    nodes, workers = at_its_largest(present, may_come), config.workers_per_trial
    gpus = _usual_gpus(nodes) if config.gpus is None else config.gpus / workers
    asked = config.cpus_per_trial
    cpus = asked / workers if asked else _usual_cpus(gpus, nodes, workers * (config.max_concurrent or 1))
    fits = places(nodes, cpus, gpus) // workers
    if not fits:
        raise InputError(_why_none_fits(nodes, workers, cpus, gpus))
    return Resources(workers, cpus * workers, gpus * workers, min(fits, config.max_concurrent or fits))


def settle_for(config: RunConfig, model: ModelDict, present: Iterable[Node], may_come: Iterable[Node]) -> Resources:
    """The same, where `resources.gpus_per_trial` may be `auto`: by the memory of a trial of this model."""
    nodes = at_its_largest(present, may_come)
    return settle(gpu_share.settled(config, model, cpus_a_gpu(nodes)), nodes)


def cpus_a_gpu(nodes: Iterable[Node]) -> float:
    """CPUs for each GPU, on the nodes with GPUs the least; 0 where there is no whole GPU."""
    return min((node.cpus / int(node.gpus) for node in nodes if node.gpus >= 1), default=0.0)


def places(nodes: Iterable[Node], cpus: float, gpus: float) -> int:
    """How many workers of that many CPUs and GPUs fit these nodes together."""
    return sum(node.count * node.slots(cpus, gpus) for node in nodes)


def awaited(resources: Resources, present: Iterable[Node]) -> str:
    """What has to come before the first trial runs, in a line; empty where it fits the nodes that are there."""
    workers, (cpus, gpus) = resources.workers, resources.of_a_worker
    if places(present, cpus, gpus) >= workers:
        return ""
    return f"no trial fits the nodes that are there; waiting for room for {asked_text(workers, cpus, gpus)}"


def sharing(resources: Resources, gpu_bytes: float) -> str:
    """How trials share a GPU of so many bytes (0: not known), and what of a CPU each has where it is less than one."""
    cpus, gpus = resources.of_a_worker
    line = gpu_share.line(gpus, gpu_bytes)
    return f"{line}; each has {cpus:g} of a CPU, for which it then waits" if line and cpus < 1 else line


def asked_text(workers: int, cpus: float, gpus: float) -> str:
    """What a trial asks for, in words."""
    return f"{workers} workers of {amounts(cpus, gpus)} each" if workers > 1 else amounts(cpus, gpus)


def _usual_gpus(nodes: Iterable[Node]) -> float:
    return 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0


def _usual_cpus(gpus: float, nodes: Iterable[Node], workers: int) -> float:
    """Of a worker. With GPUs what is there for each on every node that has them, so that none stays idle for want of
    CPUs; without, up to 8, so that so many workers fit at once."""
    if gpus:
        least = min((node.cpus / node.slots(0, gpus) for node in nodes if node.slots(0, gpus)), default=1.0)
        return float(int(least)) if least >= 1 else least
    sizes = range(MOST_USUAL_CPUS, 1, -1)
    return float(next((cpus for cpus in sizes if places(nodes, cpus, 0) >= workers), 1))


def _why_none_fits(nodes: Sequence[Node], workers: int, cpus: float, gpus: float) -> str:
    asked = asked_text(workers, cpus, gpus)
    if not nodes:
        return (
            f"a trial asks for {asked}, but no node of this cluster has a CPU, and it does not tell what may come; "
            "where some may, say it by resources.most_nodes, resources.node_cpus and resources.node_gpus"
        )
    largest = max(nodes, key=lambda node: (min(node.gpus, gpus), node.cpus, node.gpus))
    fitting = places(nodes, cpus, gpus)
    have = f"no more than {fitting} of them fit this cluster, whose" if fitting else "the"
    flags = [*(["--workers-per-trial"] if fitting else []), *(["--gpus-per-trial"] if gpus else []), "--cpus-per-trial"]
    what = " or ".join(flags)
    return f"a trial asks for {asked}, but {have} largest node has {largest}; lower {what}, or use larger nodes"

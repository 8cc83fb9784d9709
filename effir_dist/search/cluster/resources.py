"""How many trials fit: what a trial takes, what the cluster has, and what it may grow to."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from effir_dist.core.config import read_yaml
from effir_dist.core.errors import InputError
from effir_dist.core.settings import ResourceConfig

BOOTSTRAP_FILE = "~/ray_bootstrap_config.yaml"
"""`ray up` leaves the cluster's configuration here, on the head node."""
WAITING_CPUS = 0.01
"""What the process takes that waits for a trial's several workers."""
CPUS_WITHOUT_GPU = 8.0
"""Threads of a CPU trial by default: a small encoder gains little from more."""


@dataclass(frozen=True)
class Resources:
    """What one trial takes, all its workers together, and how many trials run at a time."""

    workers: int
    cpus: float
    gpus: float
    concurrent: int


def local_gpus() -> int:
    """GPUs that this machine shows to a program started here."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() and device.strip() != "-1"])
    return len(glob.glob("/dev/nvidia[0-9]*"))


def growth() -> dict[str, float]:
    """CPUs and GPUs that this cluster may grow to, where it was started by `ray up`; empty elsewhere."""
    path = Path(BOOTSTRAP_FILE).expanduser()
    if not path.is_file():
        return {}
    tree = read_yaml(path)
    total = {"CPU": 0.0, "GPU": 0.0}
    for name, node in (tree.get("available_node_types") or {}).items():
        count = int(name == tree.get("head_node_type")) + int(node.get("max_workers", tree.get("max_workers", 0)))
        for kind in total:
            total[kind] += count * float((node.get("resources") or {}).get(kind, 0))
    return total


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


def settle(config: ResourceConfig, present: Mapping[str, float], may_grow_to: Mapping[str, float]) -> Resources:
    """What a trial takes, and how many run at a time, on a cluster with these CPUs and GPUs now and at its largest.

    Raises InputError where not a single trial will ever fit.
    """
    have = {kind: max(present.get(kind, 0.0), may_grow_to.get(kind, 0.0)) for kind in ("CPU", "GPU")}
    workers = config.workers_per_trial
    gpus = config.gpus if config.gpus is not None else (float(workers) if have["GPU"] else 0.0)
    cpus = config.cpus_per_trial or _usual_cpus(workers, gpus, have, config.max_concurrent or 1)
    for kind, wanted in (("GPU", gpus), ("CPU", cpus)):
        if wanted > have[kind]:
            raise InputError(
                f"a trial asks for {wanted:g} {kind}s, but the cluster has {present.get(kind, 0.0):g} and may grow "
                f"to {have[kind]:g}; lower --{kind.lower()}s-per-trial or use a larger cluster"
            )
    fits = int(min(have["CPU"] // cpus, have["GPU"] // gpus if gpus else float("inf")))
    return Resources(workers, cpus, gpus, max(1, min(fits, config.max_concurrent or fits)))


def _usual_cpus(workers: int, gpus: float, have: Mapping[str, float], concurrent: int) -> float:
    """With GPUs, as large a share of the CPUs as of the GPUs; without, up to 8 a worker."""
    if gpus and have["GPU"]:
        return max(float(workers), have["CPU"] * gpus // have["GPU"])
    return max(float(workers), min(have["CPU"] // concurrent, CPUS_WITHOUT_GPU * workers))

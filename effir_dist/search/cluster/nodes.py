"""The nodes of a cluster: those that are there, and those that may come."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from effir_dist.core.search_settings import trials_on_a_gpu


@dataclass(frozen=True)
class Node:
    """Nodes of one size."""

    cpus: float
    """Of each node, as `gpus`."""
    gpus: float = 0.0
    count: int = 1
    """How many of them there are, or may be."""

    def slots(self, cpus: float, gpus: float) -> int:
        """How many workers of that many CPUs and GPUs fit one of these nodes."""
        found = [math.floor(self.cpus / cpus + 1e-9)] if cpus else []
        if gpus:  # a part is of one GPU: two of 0.4 fit each
            whole = int(self.gpus) * trials_on_a_gpu(gpus) + math.floor(self.gpus % 1 / gpus + 1e-9)
            found.append(whole if gpus < 1 else math.floor(self.gpus / gpus + 1e-9))
        return min(found, default=0)

    def __str__(self) -> str:
        return amounts(self.cpus, self.gpus)


def amounts(cpus: float, gpus: float) -> str:
    """'8 CPUs and 1 GPU'."""
    return f"{_counted(cpus, 'CPU')} and {_counted(gpus, 'GPU')}" if gpus else _counted(cpus, "CPU")


def _counted(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'' if number == 1 else 's'}"


def present_nodes(table: Iterable[Mapping[str, Any]]) -> tuple[Node, ...]:
    """Nodes that are there and have CPUs, from the table of `ray.nodes()`."""
    return grouped(node_of(row["Resources"]) for row in table if row["Alive"])


def node_of(resources: Mapping[str, float], count: int = 1) -> Node:
    """Nodes with these of Ray's resources, by Ray's names."""
    return Node(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)), count)


def grouped(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """One entry a size; those without CPUs run nothing and are left out."""
    counts: Counter[tuple[float, float]] = Counter()
    for node in nodes:
        counts[node.cpus, node.gpus] += node.count
    return tuple(Node(cpus, gpus, count) for (cpus, gpus), count in counts.items() if cpus and count)


def at_its_largest(present: Iterable[Node], may_come: Iterable[Node]) -> tuple[Node, ...]:
    """All nodes of a cluster that has grown as far as it may; `may_come` counts those of its sizes that are there."""
    there, limits = grouped(present), grouped(may_come)
    most = {(node.cpus, node.gpus): node for node in sorted([*there, *limits], key=lambda node: node.count)}
    return tuple(most.values())

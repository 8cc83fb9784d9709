"""What a cluster may grow to, as far as it tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effir_dist.core.config import read_yaml
from effir_dist.search.cluster.nodes import Node, grouped, node_of

BOOTSTRAP_FILE = "~/ray_bootstrap_config.yaml"
"""`ray up` leaves the cluster's configuration here, on the head node."""


def nodes_that_may_come() -> tuple[Node, ...]:
    """The sizes of nodes of this cluster with the most that there may be, the head and those that are there included.

    Empty where this cluster was not started by `ray up`. Raises InputError where its file cannot be read.
    """
    path = Path(BOOTSTRAP_FILE).expanduser()
    return of_ray_up(read_yaml(path)) if path.is_file() else ()


def of_ray_up(tree: dict[str, Any]) -> tuple[Node, ...]:
    """The nodes of a cluster file."""
    limit, found = tree.get("max_workers", 0), []
    for name, kind in (tree.get("available_node_types") or {}).items():
        workers = min(limit, kind.get("max_workers", limit))
        found.append(node_of(kind.get("resources") or {}, workers + int(name == tree.get("head_node_type"))))
    return grouped(found)

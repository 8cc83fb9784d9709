"""Ray's nodes: which may run trials, and how a trial avoids some of them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import ray

from effir_dist.core.values import Report
from effir_dist.search.cluster.nodes import Node, node_of
from effir_dist.search.cluster.resources import Resources, places
from effir_dist.search.faults import COMING, Host, SearchStopped

NODE_LABEL = "ray.io/node-id"
"""Ray gives it to every node by itself."""
LOOK_SECONDS = 2.0
"""Between two looks at the nodes while something is waited for."""


class AliveHosts:
    """Ray's id -> host, of the nodes with room for a worker when nothing else runs there; asked once a second.

    A call raises SearchStopped as `alive_nodes`.
    """

    def __init__(self, resources: Resources, may_come: Sequence[Node] = ()) -> None:
        """may_come: the nodes of the cluster at its largest; empty where it does not grow."""
        self.share = resources.cpus / resources.workers, resources.gpus / resources.workers
        self.most = places(may_come, *self.share)
        self.found, self.asked = dict[str, Host](), -math.inf

    def __call__(self) -> dict[str, Host]:
        if time.monotonic() > self.asked + 1:
            self.found, self.asked = _alive(*self.share), time.monotonic()
            coming = self.most - sum(host.workers for host in self.found.values())
            if coming > 0:
                self.found[COMING] = Host("nodes that may come", coming)
        return self.found


def _alive(cpus: float, gpus: float) -> dict[str, Host]:
    found = alive_nodes()
    names = Counter(node["NodeManagerHostname"] for node in found)
    nodes = {}
    for node in found:
        fits = node_of(node["Resources"]).slots(cpus, gpus)
        host = node["NodeManagerHostname"]
        if fits:
            unique = host if names[host] == 1 else f"{host} ({node['NodeManagerAddress']}, node {node['NodeID'][:8]})"
            nodes[node["NodeID"]] = Host(unique, fits)
    return nodes


def alive_nodes() -> list[dict[str, Any]]:
    """Rows of `ray.nodes()`. Raises SearchStopped where Ray's own process on this machine is gone: what was asked of it
    never ends."""
    found = [node for node in ray.nodes() if node["Alive"]]
    if ray.get_runtime_context().get_node_id() not in {node["NodeID"] for node in found}:
        raise SearchStopped(
            "Ray's own process on this machine (raylet) is gone: killed, or out of memory; what is finished is kept: "
            "run the command again with --resume"
        )
    return found


def avoiding(nodes: Sequence[str]) -> dict[str, str]:
    """Ray's label selector of all nodes but these."""
    return {NODE_LABEL: f"!in({', '.join(nodes)})"} if nodes else {}


def with_nodes(report: Report, nodes: str) -> Report:
    """The same, but the first report names the nodes that the trial runs on, their ids with ','."""
    told: list[str] = []

    def first(progress: dict[str, str | int | float]) -> None:
        report(progress if told else {**progress, "nodes": nodes})
        told.append(nodes)

    return first

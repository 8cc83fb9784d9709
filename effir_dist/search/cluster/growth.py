"""What a cluster may grow to, as far as it tells: `ray up`, Ray itself, or Kubernetes; else the user's word."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effir_dist.core.config import read_yaml
from effir_dist.core.settings import ResourceConfig
from effir_dist.search.cluster.nodes import Node, grouped, node_of

BOOTSTRAP_FILE = "~/ray_bootstrap_config.yaml"
"""`ray up` leaves the cluster's configuration here, on the head node."""
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""What Kubernetes gives a pod to ask with."""
NO_LIMIT = 1_000_000
"""Of nodes where a platform names no limit."""


def nodes_that_may_come(config: ResourceConfig) -> tuple[Node, ...]:
    """The sizes of nodes of the cluster that this process has joined, and how many of each there may be at most, those
    that are there included. Empty where nothing tells.

    Raises InputError where `ray up`'s file cannot be read.
    """
    if config.most_nodes:
        return (Node(config.node_cpus, config.node_gpus, config.most_nodes),)
    path = Path(BOOTSTRAP_FILE).expanduser()
    if path.is_file():
        return of_node_types(read_yaml(path))
    return reported_to_ray() or of_kuberay()


def of_node_types(tree: Mapping[str, Any]) -> tuple[Node, ...]:
    """The nodes of an autoscaler's configuration, which is also a file of `ray up`."""
    limit, found = tree.get("max_workers", 0), []
    for name, kind in (tree.get("available_node_types") or {}).items():
        workers = min(limit, kind.get("max_workers", limit))
        found.append(node_of(kind.get("resources") or {}, workers + int(name == tree.get("head_node_type"))))
    return grouped(found)


def reported_to_ray() -> tuple[Node, ...]:
    """The nodes that a platform's autoscaler says to Ray that it may bring; Ray's own autoscalers say nothing."""
    from ray._private.state import state

    config = state.get_cluster_config()
    groups = config.node_group_configs if config else ()
    return grouped(node_of(group.resources, NO_LIMIT if group.max_count < 0 else group.max_count) for group in groups)


def of_kuberay() -> tuple[Node, ...]:
    """The nodes of the RayCluster that this pod is of, asked and read as Ray's autoscaler beside the head does it.

    KubeRay lets the head of a cluster that scales read it. Empty in other pods, and outside of Kubernetes.
    """
    name = os.environ.get("RAY_CLUSTER_NAME")
    if not name or "KUBERNETES_SERVICE_HOST" not in os.environ:
        return ()
    from ray.autoscaler._private.kuberay import autoscaling_config, node_provider

    try:
        namespace = os.environ.get("RAY_CLUSTER_NAMESPACE") or Path(SERVICE_ACCOUNT, "namespace").read_text().strip()
        resource = node_provider.KubernetesHttpApiClient(namespace).get(f"rayclusters/{name}")
    except OSError as error:  # requests' errors are of this kind
        logging.getLogger(__name__).warning("Kubernetes does not tell how far RayCluster %s may grow: %s", name, error)
        return ()
    if not resource["spec"].get("enableInTreeAutoscaling"):
        return ()
    return of_node_types(autoscaling_config._derive_autoscaling_config_from_ray_cr(resource))

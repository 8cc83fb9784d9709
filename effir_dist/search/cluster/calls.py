"""Work of one worker that is no trial: the preparation, and the scoring of the front."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import ray

from effir_dist.core.errors import InputError
from effir_dist.search.cluster.placement import LOOK_SECONDS, AliveHosts, alive_nodes, avoiding
from effir_dist.search.cluster.ray_errors import from_error
from effir_dist.search.cluster.resources import Resources
from effir_dist.search.cluster.worker import in_worker
from effir_dist.search.faults import COMING
from effir_dist.search.trial.faults import TrialFault, fault_told

TRIES = 3
"""Hosts on which work is tried that fails for a reason of the host."""


def call(function: Callable[..., Any], resources: Resources, *args: Any) -> Callable[[], Any]:
    """Run a function on the cluster with one worker's share of a trial; the result waits behind the returned call.

    What fails for a reason of its host is tried on others. Then the returned call raises InputError for bad input, and
    TrialFault for anything else.
    """
    cpus, gpus = resources.of_a_worker

    def submit(avoid: Collection[str]) -> Any:
        options: dict[str, Any] = {"label_selector": avoiding(sorted(avoid))} if avoid else {}
        remote: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, **options)(_on_node)
        return remote.remote(function, cpus, gpus, *args)

    first, avoid, hosts = submit(()), set[str](), AliveHosts(resources)

    def wait(reference: Any = first, tries: int = TRIES) -> Any:
        try:
            return _result(reference)
        except ray.exceptions.RayError as error:
            fault = from_error(error, "")
            alive_nodes()  # where Ray itself is gone, that is the reason
        avoid.update(fault.nodes)
        if tries > 1 and fault.kind in ("host", "network", "unfit") and hosts().keys() - avoid - {COMING}:
            return wait(submit(avoid), tries - 1)
        raise shown(fault)

    return wait


def _result(reference: Any) -> Any:
    """Of a task. Raises SearchStopped as `alive_nodes`, where `ray.get` would wait for ever."""
    while not ray.wait([reference], timeout=LOOK_SECONDS)[0]:
        alive_nodes()
    return ray.get(reference)


def shown(fault: TrialFault) -> Exception:
    """What a call raises: bad input for the user, or the fault."""
    return InputError(fault.reason) if fault.kind == "unfit" else fault


def _on_node(function: Callable[..., Any], cpus: float, gpus: float, *args: Any) -> Any:
    with fault_told("", ray.get_runtime_context().get_node_id()):
        return in_worker(function, cpus, gpus, *args)

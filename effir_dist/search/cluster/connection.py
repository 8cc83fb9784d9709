"""Ray: starting it on this machine, or joining the cluster at an address."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
from collections.abc import Iterator
from typing import Any

import psutil
import ray
from ray import PlacementGroupID
from ray._private import parameter
from ray.util.placement_group import PlacementGroup

from effir_dist.core.errors import InputError
from effir_dist.search.cluster.nodes import Node, present_nodes
from effir_dist.search.cluster.resources import local_gpus

ANSWER_SECONDS = 10.0
"""For which a cluster that is to be joined is waited for."""
STARTS = 3
"""Of a local Ray, where the machine is so busy that one is not enough."""
OBJECT_STORE_BYTES = 256 << 20
"""Of a local Ray: nothing large passes through it, so it takes no more of the machine's memory."""
MOST_PRELOADED = 8
"""CPUs of a machine whose workers import what trials need as soon as they start, which Ray does for each CPU."""
IDLE_MILLISECONDS = 60_000
"""Ray's own second is less than a small model's preparation takes, whose CPUs no other worker gets meanwhile."""
PRELOADED = "effir_dist.search.cluster.preloaded"
PRELOADING = {"preload_python_modules": [PRELOADED], "idle_worker_killing_time_threshold_ms": IDLE_MILLISECONDS}
"""Settings of a local Ray whose workers do."""


@contextlib.contextmanager
def cluster(address: str | None, workers_per_trial: int = 1) -> Iterator[tuple[Node, ...]]:
    """Join the Ray cluster at `address`, or start one on this machine; yields its nodes."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    if address:
        check_answers(address)
        quiet.pop("include_dashboard")
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_cluster(address, error) from None
    else:
        _start_here({**quiet, "_system_config": PRELOADING if preloads(workers_per_trial) else {}})
    try:
        if address:
            _free_what_dead_drivers_reserved()
        yield present_nodes(ray.nodes())
    finally:
        ray.shutdown()


def _start_here(options: dict[str, Any]) -> None:
    """Start Ray on this machine. Raises InputError where it does not start, each time in the 30 s that it gives itself;
    a first start reads gigabytes of programs from the disk, which the next one finds in memory."""
    for _ in range(STARTS):
        others = {*psutil.Process().children()}
        try:
            with _without_monitors():
                ray.init(address="local", object_store_memory=OBJECT_STORE_BYTES, **options)
            return
        except Exception as error:  # Ray raises no narrower one
            if "timed out during startup" not in str(error):
                raise
        _end({*psutil.Process().children()} - others)
    raise InputError(
        f"Ray did not start on this machine, {STARTS} times in the 30 s that it gives itself; stop what keeps the "
        "machine busy and run the command again (a search goes on with --resume)"
    )


def _end(processes: set[psutil.Process]) -> None:
    """What a start that Ray gave up has left: Ray itself ends it only with this process."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes)


@contextlib.contextmanager
def _without_monitors() -> Iterator[None]:
    """Ray starts no autoscaler, which has no nodes to bring here, and nothing that carries the workers' output to the
    driver, which does not want it: two processes that take a second of the start. Ray has no option for it: a version
    whose own parameters have other names starts both."""
    kept = parameter.RayParams
    known, wanted = inspect.signature(kept).parameters, {"no_monitor": True, "include_log_monitor": ""}
    chosen: dict[str, Any] = {name: value for name, value in wanted.items() if name in known}
    parameter.RayParams = functools.partial(kept, **chosen)  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        parameter.RayParams = kept  # type: ignore[misc]


def preloads(workers_per_trial: int = 1) -> bool:
    """Whether this machine's workers import what trials need before they have work: not where they would be many, and
    not beside GPUs, whose number CUDA may read before Ray says which are a worker's. A trial of several workers starts
    eight processes anew, of which five only carry messages."""
    return workers_per_trial == 1 and (os.cpu_count() or 1) <= MOST_PRELOADED and not local_gpus()


def is_own() -> bool:
    """Whether this process started the Ray that it uses."""
    node = ray._private.worker._global_node
    return bool(node and node.is_head())


def check_answers(address: str) -> None:
    """Raises InputError where no Ray answers at the address; `ray.init` would ask for two minutes, and exit."""
    import grpc
    from ray._private import gcs_utils, services

    try:
        found = services.canonicalize_bootstrap_address(address)
    except (ConnectionError, ValueError, OSError) as error:
        raise _no_cluster(address, error) from None
    if found is None:
        raise _no_cluster(address, ConnectionError("none runs on this machine"))
    channel = gcs_utils.create_gcs_channel(found)
    try:
        grpc.channel_ready_future(channel).result(timeout=ANSWER_SECONDS)
    except grpc.FutureTimeoutError:
        raise _no_cluster(address, ConnectionError(f"no answer from {found} in {ANSWER_SECONDS:g} s")) from None
    finally:
        channel.close()


def _no_cluster(address: str, error: Exception) -> InputError:
    reason = str(error).splitlines()[0]
    return InputError(f"no Ray cluster at {address!r}: {reason}; start one, or give its head's address (--address)")


def _free_what_dead_drivers_reserved() -> None:
    """Remove placement groups that outlived the job that made them; trials would wait for their CPUs for ever.

    Ray drops them with the job, except where a driver is killed while a trial of several workers waits for room.
    """
    from ray._private.ray_constants import DASHBOARD_ADDRESS, KV_NAMESPACE_DASHBOARD
    from ray.experimental.internal_kv import _internal_kv_get
    from ray.util.state import list_jobs, list_placement_groups
    from ray.util.state.exception import RayStateApiException

    log = logging.getLogger(__name__)
    if not _internal_kv_get(DASHBOARD_ADDRESS, namespace=KV_NAMESPACE_DASHBOARD):  # it would be asked for 40 seconds
        log.warning("without Ray's dashboard what dead drivers reserved is not found")
        return
    try:
        # The groups first: one that a job makes after this look is not among them, so its job is never missed.
        groups = list_placement_groups(filters=[("is_detached", "=", False)], limit=10_000, detail=True)
        alive = {job.job_id for job in list_jobs(limit=10_000) if job.status in ("PENDING", "RUNNING")}
    except (RayStateApiException, ConnectionError, ValueError) as error:  # the dashboard does not answer
        log.warning("cannot look for what dead drivers reserved: %s", error)
        return
    for group in groups:
        if group.state != "REMOVED" and group.creator_job_id not in alive:
            print(f"removing placement group {group.placement_group_id} of the dead job {group.creator_job_id}")
            ray.util.remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group.placement_group_id)))

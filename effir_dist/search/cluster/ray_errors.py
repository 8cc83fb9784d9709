"""What Ray says of a trial that failed, in the driver's words: whose fault, why, on which nodes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle

from effir_dist.search.trial.faults import TrialFault, fault_of, gravest

NO_WORKER = "failed to import on the worker"
"""Ray's words where a node cannot load what a worker is to run; the process then dies."""


def fault(pickled: str | None, run: str) -> TrialFault:
    """What a Tune trial failed of. pickled: Tune's file of the error, on this machine. run: the run folder."""
    if not pickled or not Path(pickled).is_file():
        return TrialFault("lost", "the worker process died")
    return from_error(cloudpickle.loads(Path(pickled).read_bytes()), run)


def from_error(error: Any, run: str) -> TrialFault:
    """Out of Ray's and Tune's wrappings; of several workers the one that caused the rest."""
    while (inner := _inner(error)) is not None:
        error = inner
    workers = [from_error(each, run) for each in getattr(error, "worker_failures", {}).values()]
    if workers:
        return gravest(workers)
    if not isinstance(error, ray.exceptions.RayActorError):
        return fault_of(error, run)
    node, text = _node_of(error), str(error)
    if error._actor_init_failed or NO_WORKER in text:
        return TrialFault("unfit", f"no worker can be started on it: {_raised(text)}", node)
    return TrialFault("lost", "the worker process died", node)


def _raised(text: str) -> str:
    """The error that a text of several tracebacks is about."""
    found = [
        line for line in re.findall(r"^[\w.]+(?:Error|Exception): .+$", text, re.MULTILINE) if NO_WORKER not in line
    ]
    return str(found[-1])[:500] if found else text.strip().splitlines()[-1][:500]


def _inner(error: Any) -> Any:
    for name in ("cause", "controller_failure", "_base_exc"):
        found = getattr(error, name, None)
        if isinstance(found, BaseException):
            return found
    return None


def _node_of(error: Any) -> tuple[str, ...]:
    """The node on which an actor was, or was to be."""
    known: Any = (
        ray._private.state.actors(error.actor_id) if error.actor_id else {}
    )  # no public way without a dashboard
    node = known.get("Address", {}).get("NodeID", "")
    return (node,) if node else ()

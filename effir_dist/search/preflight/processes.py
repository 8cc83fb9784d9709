"""Ray's part of a preflight: a process on every node, and answers from all of them in bounded time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from effir_dist.core.config import read_yaml
from effir_dist.core.errors import InputError
from effir_dist.search.cluster.growth import BOOTSTRAP_FILE
from effir_dist.search.cluster.nodes import Node, node_of
from effir_dist.search.preflight.findings import Finding

REACH = "answers"
"""The check that a node is in the cluster and answers."""


@dataclass(frozen=True)
class RayNode:
    """A node of the cluster."""

    id: str
    host: str
    address: str
    size: Node

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.host} ({self.address})" if self.host != self.address else self.host


def nodes() -> list[RayNode]:
    """The nodes that are alive, as Ray says, by address."""
    return sorted((_node(each) for each in ray.nodes() if each["Alive"]), key=lambda node: node.address)


def _node(each: Mapping[str, Any]) -> RayNode:
    size = node_of(each.get("Resources") or {})
    return RayNode(each["NodeID"], each["NodeManagerHostname"], each["NodeManagerAddress"], size)


def absent() -> list[Finding]:
    """Hosts that the file of `ray up` names (on premise) and that are no node of the cluster."""
    alive = {node.address for node in nodes()}
    names = {each["NodeManagerAddress"]: _node(each).name for each in ray.nodes()}
    why = "is in the cluster's file and no node of it now: is it up, is its network, did `ray up` start Ray there?"
    return [Finding(names.get(a, a), REACH, "failed", f"{a} {why}") for a in declared() if a not in alive]


def declared(file: str = BOOTSTRAP_FILE) -> list[str]:
    """Addresses of the hosts of an on-premise cluster, from what `ray up` left on its head; none elsewhere."""
    path = Path(file).expanduser()
    provider = (read_yaml(path).get("provider") or {}) if path.is_file() else {}
    if provider.get("type") != "local":
        return []
    return [address for address in (provider.get("head_ip"), *(provider.get("worker_ips") or [])) if address]


def start(node: RayNode, gpus: float = 0) -> Any:
    """A process on a node, which calls functions by name.

    Its class is a local one, which Ray sends as code and not by name: effir_dist may be what the node lacks.
    """

    class Answering:
        def call(self, module: str, function: str, arguments: Sequence[Any]) -> Any:
            import importlib

            return getattr(importlib.import_module(module), function)(*arguments)

    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    remote: Any = ray.remote(Answering)
    return remote.options(num_cpus=0, num_gpus=gpus, scheduling_strategy=strategy).remote()


@contextlib.contextmanager
def stopped(processes: dict[RayNode, Any]) -> Iterator[dict[RayNode, Any]]:
    """The processes, which are ended with the block."""
    try:
        yield processes
    finally:
        for process in processes.values():
            ray.kill(process)


def ask(
    processes: Mapping[RayNode, Any],
    module: str,
    function: str,
    arguments: Mapping[RayNode, Sequence[Any]],
    seconds: float,
    why_late: str = "is the node's network cut, or the node too busy?",
) -> dict[RayNode, Any]:
    """What a function answers on each node; an exception in place of it where there is none in time, or it raised.

    The function is one of a module, by name; arguments and answers are plain data.
    """
    calls = {n: p.call.remote(module, function, list(arguments.get(n, ()))) for n, p in processes.items()}
    ready = set(ray.wait(list(calls.values()), num_returns=len(calls), timeout=seconds)[0]) if calls else set()
    late = InputError(f"no answer within {seconds:.0f} s; {why_late}")
    answers = {node: _answer(call) if call in ready else late for node, call in calls.items()}
    here = {node.id for node in nodes()}
    return {node: answer if node.id in here else _left(answer) for node, answer in answers.items()}


def _answer(call: Any) -> Any:
    try:
        return ray.get(call, timeout=10)
    except ray.exceptions.RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except ray.exceptions.RayError as error:
        return error


def _left(answer: Any) -> InputError:
    """Of a node that is none any more."""
    missed = "it missed Ray's health checks" if "heartbeat" in str(answer) else "Ray took it out"
    return InputError(f"the node left the cluster while it was asked ({missed}); is its network cut, or did it stop?")


def answered(answers: Mapping[RayNode, Any]) -> dict[RayNode, Any]:
    """Those that are no exceptions."""
    return {node: answer for node, answer in answers.items() if not isinstance(answer, BaseException)}

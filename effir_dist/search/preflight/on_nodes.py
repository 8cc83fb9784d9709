"""The checks of nodes, on all of them at once: each answers in bounded time or is a finding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from effir_dist.core.storage import place, read_bytes
from effir_dist.search.cluster.resources import Resources
from effir_dist.search.preflight import gpu_checks, network, node_checks
from effir_dist.search.preflight.findings import Finding, sentence
from effir_dist.search.preflight.node_checks import Request
from effir_dist.search.preflight.processes import REACH, RayNode, absent, answered, ask, nodes, start, stopped

__all__ = ["absent", "check", "nodes"]

START_SECONDS = 60.0
"""For a process on a node to start, and for its GPUs to be free."""
SLACK = 15.0
"""Beyond what a function takes at most, for its answer to come."""
Processes = Mapping[RayNode, Any]


def check(known: Sequence[RayNode], request: Request, takes: Resources | None) -> list[Finding]:
    """The findings of these nodes, one after the other for each. takes: what a trial takes, where that is known."""
    with stopped({node: start(node) for node in known}) as processes:
        answers = ask(processes, "platform", "node", {}, START_SECONDS)
        found = [
            dataclasses.replace(each, reason=each.reason or _holds(node, takes))
            for each, node in zip(_findings(answers, REACH), answers, strict=True)
        ]
        processes = {node: processes[node] for node in answered(answers)}
        own = {node: [node.address] for node in processes}
        answers = ask(processes, network.__name__, "listen", own, START_SECONDS)
        found += [each for each in _findings(answers, "effir_dist starts") if each.state == "failed"]
        ports = answered(answers)
        processes = {node: processes[node] for node in ports}
        found += _checks(processes, request) + _network(processes, ports)
        if takes is None or not takes.gpus:
            return found + _group(processes, "gloo", takes)
    return found + _gpus([node for node in processes if node.size.gpus], request, takes)


def _holds(node: RayNode, takes: Resources | None) -> str:
    """How much of a trial a node has room for."""
    if takes is None:
        return str(node.size)
    workers = node.size.slots(takes.cpus / takes.workers, takes.gpus / takes.workers)
    return f"{node.size}: {workers} worker{'' if workers == 1 else 's'} of a trial at a time"


def _findings(answers: Mapping[RayNode, Any], check: str, note: str = "") -> list[Finding]:
    """Of each node; an exception is a failure."""
    return [
        Finding(node.name, check, "failed", sentence(answer))
        if isinstance(answer, BaseException)
        else Finding(node.name, check, "ok", note)
        for node, answer in answers.items()
    ]


def _checks(processes: Processes, request: Request) -> list[Finding]:
    """All of `node_checks`, and whether this machine reads back what each node wrote."""
    requests = {node: [dataclasses.replace(request, node=node.name).plain()] for node in processes}
    answers = ask(processes, node_checks.__name__, "run_all", requests, node_checks.SECONDS + SLACK)
    found = []
    for node, answer in answers.items():
        if isinstance(answer, BaseException):
            found.append(Finding(node.name, "checks", "failed", sentence(answer)))
            continue
        found += (rows := [Finding(**row) for row in answer])
        wrote = all(row.state == "ok" for row in rows if row.check == node_checks.RUNS_FOLDER)
        found += _read_back(node, request) if wrote else []
    return found


def _read_back(node: RayNode, request: Request) -> list[Finding]:
    """A finding where what a node wrote is not here."""
    try:
        if read_bytes(node_checks.written_by(node.name, place(request.scratch))) == node.name.encode():
            return []
        reason = "reads back as something else"
    except FileNotFoundError:
        reason = "is not there on this machine: take a folder that all nodes share, or a bucket (--runs s3://...)"
    return [Finding(node.name, "read back", "failed", f"what the node wrote to {request.scratch} {reason}")]


def _network(processes: Processes, ports: Mapping[RayNode, int]) -> list[Finding]:
    """Whether each node reaches each other."""
    targets = {node: {o.name: (o.address, ports[o]) for o in processes if o != node} for node in processes}
    arguments = {node: [targets[node]] for node in processes}
    seconds = network.REACH_SECONDS * (1 + len(processes) // network.AT_ONCE) + SLACK
    answers = ask(processes, network.__name__, "unreachable", arguments, seconds)
    found = _findings(answers, "network", "")
    return [_reached(each, answers) for each in found]


def _reached(found: Finding, answers: Mapping[RayNode, Any]) -> Finding:
    lost = next(answer for node, answer in answers.items() if node.name == found.node)
    if found.state == "failed" or not lost:
        return found
    return dataclasses.replace(found, state="failed", reason=f"cannot reach {lost}; is a port closed between them?")


def _group(processes: Processes, backend: str, takes: Resources | None) -> list[Finding]:
    """A process group of one rank a node, where a trial has several workers, which may be on any nodes."""
    if takes is None or takes.workers == 1 or len(processes) < 2:
        return []
    first, *_ = processes
    port = ask({first: processes[first]}, network.__name__, "free_port", {first: [first.address]}, SLACK)[first]
    if isinstance(port, BaseException):
        return [Finding(first.name, backend, "failed", sentence(port))]
    master, world = (first.address, port), len(processes)
    arguments = {node: [backend, rank, world, master, node.address] for rank, node in enumerate(processes)}
    answers = ask(processes, network.__name__, "sum_of_ranks", arguments, network.GROUP_SECONDS + START_SECONDS)
    wrong = {n: ValueError(f"summed the ranks to {a}") for n, a in answered(answers).items() if a != sum(range(world))}
    return _findings({**answers, **wrong}, backend, f"a group of {world} nodes")


def _gpus(known: Sequence[RayNode], request: Request, takes: Resources) -> list[Finding]:
    """Memory of the GPUs, in processes that hold them all, and NCCL between those."""
    with stopped({node: start(node, node.size.gpus) for node in known}) as processes:
        arguments = {node: [request.plain(), int(node.size.gpus)] for node in processes}
        busy = "does another job hold some of the node's GPUs?"
        answers = ask(processes, gpu_checks.__name__, "run", arguments, node_checks.SECONDS, busy)
        found = [
            dataclasses.replace(each, reason=each.reason or str(answers[node]))
            for each, node in zip(_findings(answers, "GPUs"), answers, strict=True)
        ]
        return found + _group({node: processes[node] for node in answered(answers)}, "nccl", takes)

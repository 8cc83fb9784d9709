"""The network between nodes: who reaches whom, and a process group over all of them. No Ray."""

from __future__ import annotations

import concurrent.futures
import datetime
import os
import socket

REACH_SECONDS = 10.0
GROUP_SECONDS = 60.0
AT_ONCE = 64
"""Connections that a node opens at a time."""
_listening: list[socket.socket] = []


def listen(address: str) -> int:
    """Wait for connections to this node's address, until the process ends; returns the port."""
    server = socket.create_server((address, 0))
    _listening.append(server)
    return int(server.getsockname()[1])


def unreachable(targets: dict[str, tuple[str, int]]) -> str:
    """The nodes that cannot be reached from here, with the reasons; empty where all can. targets: name -> listener."""

    def reach(target: tuple[str, int]) -> str:
        try:
            socket.create_connection(target, REACH_SECONDS).close()
        except OSError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        reasons = dict(zip(targets, pool.map(reach, targets.values()), strict=True))
    return ", ".join(f"{name} ({reason})" for name, reason in reasons.items() if reason)


def free_port(address: str) -> int:
    """A port that nothing uses now."""
    with socket.create_server((address, 0)) as server:
        return int(server.getsockname()[1])


def sum_of_ranks(backend: str, rank: int, world: int, master: tuple[str, int], address: str) -> float:
    """Join a process group of all nodes and sum their ranks. backend: `nccl` or `gloo`; address: of this node.

    Raises an error where the group does not come about in time.
    """
    import torch
    import torch.distributed as dist

    from effir_dist.search.cluster.ray_train import interface

    if name := interface(address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    limit = datetime.timedelta(seconds=GROUP_SECONDS)
    where = f"tcp://{master[0]}:{master[1]}"
    dist.init_process_group(backend, init_method=where, rank=rank, world_size=world, timeout=limit)
    try:
        total = torch.tensor([float(rank)], device="cuda" if backend == "nccl" else "cpu")
        dist.all_reduce(total)
        return float(total.item())
    finally:
        dist.destroy_process_group()

"""A trial of several workers, by Ray Train: one process each, on one machine where they fit, else on several."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import ray
import ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.tune.integration.ray_train import TuneReportCallback

from effir_dist.core.values import Report
from effir_dist.evaluate.ranks import exchanged
from effir_dist.search.cluster.placement import avoiding, with_nodes
from effir_dist.search.cluster.resources import WAITING_CPUS
from effir_dist.search.cluster.worker import Job
from effir_dist.search.trial.faults import fault_told


def run_on_workers(job: Job, work: Callable[[Job, Report], None]) -> None:
    """Call work(job, report) in each of the job's workers, as ranks of one process group; returns when all are done."""
    workers, cpus, gpus = job.resources.workers, job.resources.cpus, job.resources.gpus
    # Together with the waiting process they must fit where `cpus` fit, or they wait for ever without a word.
    share = {"CPU": cpus / workers - WAITING_CPUS, **({"GPU": gpus / workers} if gpus else {})}

    elsewhere: dict[str, Any] = {"label_selector": avoiding(job.avoid)} if job.avoid else {}

    def worker(options: dict[str, Job]) -> None:
        node = ray.get_runtime_context().get_node_id()
        with fault_told(job.run, node):
            nodes = dict.fromkeys(exchanged(node))
            work(options["job"], with_nodes(ray.train.report, ",".join(nodes)))

    TorchTrainer(
        worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker=share,
            placement_strategy="PACK",
            **elsewhere,
        ),
        torch_config=_Network(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(
            name=f"trial-{job.spec.trial}-{'top' if job.spec.rung is None else job.spec.rung}",
            storage_path=job.storage,
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
        ),
    ).fit()


@dataclass
class _Network(TorchConfig):
    """torch's process group over the network by which Ray's nodes know each other."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_use_the_nodes_interface)
        super().on_start(worker_group, backend_config)


def _use_the_nodes_interface() -> None:
    """Tell gloo which network to use. By itself it takes the one that the host's name stands for, mostly loopback."""
    name = interface(ray.util.get_node_ip_address())
    if name:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface(address: str) -> str:
    """The network interface with this IP address; empty where this machine has none."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.family in (socket.AF_INET, socket.AF_INET6) and a.address == address for a in addresses):
            return name
    return ""

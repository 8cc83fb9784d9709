"""What a trial takes and how many run at a time; a trial that never fits is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from effir_dist.core.config import replace
from effir_dist.core.errors import InputError
from effir_dist.core.settings import ResourceConfig, RunConfig
from effir_dist.search.cluster import growth, resources
from effir_dist.search.cluster.nodes import Node, present_nodes
from effir_dist.search.cluster.ray_train import interface
from effir_dist.search.cluster.resources import Resources, settle

HEAD, SMALL, LARGE = Node(32), Node(8, 1), Node(96, 8)


@pytest.mark.parametrize(
    ("config", "nodes", "expected"),
    [
        (ResourceConfig(), [Node(2)], Resources(1, 2, 0, 1)),
        (ResourceConfig(), [Node(64)], Resources(1, 8, 0, 8)),
        (ResourceConfig(max_concurrent=2), [Node(2)], Resources(1, 1, 0, 2)),
        (ResourceConfig(), [LARGE], Resources(1, 12, 1, 8)),
        (ResourceConfig(workers_per_trial=4), [LARGE], Resources(4, 48, 4, 2)),
        (ResourceConfig(gpus_per_trial=0.5), [SMALL], Resources(1, 4, 0.5, 2)),
        (ResourceConfig(gpus_per_trial=0.1), [SMALL], Resources(1, 0.8, 0.1, 10)),
        (ResourceConfig(gpus_per_trial=0), [SMALL], Resources(1, 8, 0, 1)),
        (ResourceConfig(workers_per_trial=8, gpus_per_worker=1), [Node(96, 8, 2)], Resources(8, 96, 8, 2)),
        (ResourceConfig(workers_per_trial=2, cpus_per_trial=2), [Node(2)], Resources(2, 2, 0, 1)),
        # Several nodes: a worker is on one of them.
        (ResourceConfig(), [Node(2, count=3)], Resources(1, 2, 0, 3)),
        (ResourceConfig(), [HEAD, SMALL], Resources(1, 8, 1, 1)),
        (ResourceConfig(), [HEAD, SMALL, LARGE], Resources(1, 8, 1, 9)),
        (ResourceConfig(), [HEAD, Node(4, 8)], Resources(1, 0.5, 1, 8)),
        (ResourceConfig(workers_per_trial=2), [HEAD, Node(8, 1, 2)], Resources(2, 16, 2, 1)),
        (ResourceConfig(workers_per_trial=2), [Node(2, count=3)], Resources(2, 4, 0, 1)),
        (ResourceConfig(workers_per_trial=3), [Node(2), Node(4)], Resources(3, 6, 0, 1)),
        (ResourceConfig(cpus_per_trial=6), [Node(8, count=4)], Resources(1, 6, 0, 4)),
    ],
)
def test_defaults_use_every_gpu_and_a_worker_fits_a_node(
    config: ResourceConfig, nodes: list[Node], expected: Resources
) -> None:
    assert settle(config, nodes) == expected


def test_what_a_cluster_may_grow_to_counts() -> None:
    assert settle(ResourceConfig(), [Node(4)], [Node(48, 8, 2)]) == Resources(1, 6, 1, 16)
    assert settle(ResourceConfig(), [Node(48, 8)], [Node(48, 8, 2)]) == Resources(1, 6, 1, 16)
    assert settle(ResourceConfig(), [], [Node(48, 8, 2)]) == Resources(1, 6, 1, 16)


@pytest.mark.parametrize(
    ("config", "nodes", "sentence"),
    [
        (ResourceConfig(gpus_per_trial=2), [HEAD, SMALL, SMALL], "1 CPU and 2 GPUs, but the largest node has 8 CPUs"),
        (ResourceConfig(cpus_per_trial=40), [HEAD, SMALL], "and 1 GPU, but the largest node has 8 CPUs and 1 GPU"),
        (ResourceConfig(cpus_per_trial=40, gpus_per_trial=0), [HEAD, SMALL], "40 CPUs, but the largest node has 32"),
        (
            ResourceConfig(workers_per_trial=4, cpus_per_trial=32),
            [HEAD, Node(8, 1, 3)],
            "4 workers of 8 CPUs and 1 GPU each, but no more than 3 of them fit this cluster, whose largest",
        ),
        (ResourceConfig(), [], "asks for 1 CPU, but no node of this cluster has a CPU"),
    ],
)
def test_a_trial_that_never_fits_is_refused(config: ResourceConfig, nodes: list[Node], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        settle(config, nodes)


def test_the_nodes_that_are_there_are_those_alive_that_run_something() -> None:
    table = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0, "memory": 1e9}},
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"memory": 1e9}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
    ]
    assert present_nodes(table) == (Node(8, 1, 2),)


def test_the_growth_of_a_ray_up_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "BOOTSTRAP_FILE", str(tmp_path / "ray_bootstrap_config.yaml"))
    assert growth.nodes_that_may_come() == ()
    (tmp_path / "ray_bootstrap_config.yaml").write_text(
        "max_workers: 4\nhead_node_type: head\navailable_node_types:\n"
        "  head: {resources: {CPU: 8}, max_workers: 0}\n  gpu: {resources: {CPU: 96, GPU: 8}, max_workers: 2}\n"
    )
    assert growth.nodes_that_may_come() == (Node(8), Node(96, 8, 2))


def test_this_machines_gpus_follow_cuda_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, count in [("", 0), ("-1", 0), ("0", 1), ("0,3", 2)]:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert resources.local_gpus() == count
    with pytest.raises(InputError, match="asks for 3 GPUs, but this machine has 2"):
        resources.check_local(ResourceConfig(gpus_per_trial=3))


def test_gpus_are_asked_for_once() -> None:
    with pytest.raises(InputError, match="gpus_per_worker must be left out where gpus_per_trial is given"):
        replace(RunConfig(), {"resources.gpus_per_worker": 1.0, "resources.gpus_per_trial": 8.0})


def test_the_interface_of_an_address() -> None:
    assert interface("127.0.0.1") == "lo"
    assert interface("192.0.2.1") == ""

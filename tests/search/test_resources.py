"""What a trial takes and how many run at a time; a trial that never fits is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from ray.autoscaler._private.kuberay import node_provider

from effir_dist.core.config import replace
from effir_dist.core.errors import InputError
from effir_dist.core.settings import ResourceConfig, RunConfig
from effir_dist.models.families.registry import backbone
from effir_dist.search.cluster import growth, resources
from effir_dist.search.cluster.nodes import Node, present_nodes
from effir_dist.search.cluster.ray_train import interface
from effir_dist.search.cluster.resources import Resources, awaited, settle, settle_for, sharing
from tests import ROOT

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
        (ResourceConfig(gpus_per_trial=0.125), [Node(96, 8, 2)], Resources(1, 1, 0.125, 128)),
        (ResourceConfig(gpus_per_trial=0.125), [Node(4, 1)], Resources(1, 0.5, 0.125, 8)),
        # A part is of one GPU: two fit each, though five would fit the sum.
        (ResourceConfig(gpus_per_trial=0.4), [Node(8, 2)], Resources(1, 2, 0.4, 4)),
        (ResourceConfig(gpus_per_trial=0.3333), [Node(9, 1)], Resources(1, 3, 0.3333, 3)),
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
    assert growth.of_node_types({}) == ()
    (tmp_path / "ray_bootstrap_config.yaml").write_text(
        "max_workers: 4\nhead_node_type: head\navailable_node_types:\n"
        "  head: {resources: {CPU: 8}, max_workers: 0}\n  gpu: {resources: {CPU: 96, GPU: 8}, max_workers: 2}\n"
    )
    assert growth.nodes_that_may_come(ResourceConfig()) == (Node(8), Node(96, 8, 2))
    said = ResourceConfig(most_nodes=3, node_cpus=16, node_gpus=2)
    assert growth.nodes_that_may_come(said) == (Node(16, 2, 3),)


@pytest.fixture
def raycluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """clusters/kuberay.yaml as Kubernetes hands it to the head's pod."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "clusters" / "kuberay.yaml").read_text())
    found["metadata"]["namespace"] = "retrieval"
    api = {("retrieval", "rayclusters/effir"): found}
    monkeypatch.setattr(node_provider.KubernetesHttpApiClient, "get", lambda self, path: api[self._namespace, path])
    for name, value in [("CLUSTER_NAME", "effir"), ("CLUSTER_NAMESPACE", "retrieval")]:
        monkeypatch.setenv(f"RAY_{name}", value)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    return found


def test_the_growth_of_a_kuberay_cluster(raycluster: dict[str, Any]) -> None:
    assert growth.of_kuberay() == (Node(90, 8, 4),)
    assert settle(ResourceConfig(), (), growth.of_kuberay()) == Resources(1, 11, 1, 32)
    raycluster["spec"]["enableInTreeAutoscaling"] = False
    assert growth.of_kuberay() == ()


def test_a_kuberay_cluster_that_may_not_be_read_is_named_by_settings(
    raycluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(client: object, path: str) -> None:
        raise requests.HTTPError("403 Forbidden")

    monkeypatch.setattr(node_provider.KubernetesHttpApiClient, "get", refused)
    assert growth.of_kuberay() == ()
    assert "how far RayCluster effir may grow: 403 Forbidden" in caplog.text
    with pytest.raises(InputError, match="say it by resources.most_nodes"):
        settle(ResourceConfig(), ())


def test_a_search_says_what_it_waits_for() -> None:
    two = settle(ResourceConfig(workers_per_trial=2), [Node(8, 1)], [Node(8, 1, 4)])
    assert awaited(two, [Node(8, 1)]).endswith("waiting for room for 2 workers of 8 CPUs and 1 GPU each")
    assert awaited(two, [Node(8, 1, 2)]) == ""


@pytest.mark.parametrize("values", [{"most_nodes": 2}, {"node_cpus": 4.0}, {"most_nodes": -1, "node_cpus": 4.0}])
def test_nodes_that_may_come_have_cpus(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be"):
        replace(RunConfig(), {f"resources.{name}": value for name, value in values.items()})


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


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"gpus_per_trial": 1.5}, "gpus_per_trial must be a part of one GPU, or whole GPUs, got 1.5"),
        ({"gpus_per_worker": 0.5, "workers_per_trial": 2}, "gpus_per_worker must be whole GPUs for each of 2 workers"),
        (
            {"gpus_per_trial": 1, "workers_per_trial": 4},
            "gpus_per_trial must be whole GPUs for each of 4 workers",
        ),
        (
            {"gpus_per_trial": 0.01},
            "gpus_per_trial must be 0, or 1/48 or more: a GPU takes no more processes",
        ),
        ({"gpus_per_trial": -0.5}, "gpus_per_trial must be 0 or more, got -0.5"),
        ({"gpus_per_trial": "all"}, "gpus_per_trial must be of type float, got 'all'"),
    ],
)
def test_parts_of_gpus_that_make_no_sense(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=f"resources.{sentence}"):
        replace(RunConfig(), {f"resources.{name}": value for name, value in values.items()})


def test_a_part_of_a_gpu_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError, match=r"asks for 0.125 GPUs, but this machine has 0"):
        resources.check_local(ResourceConfig(gpus_per_trial=0.125))
    with pytest.raises(InputError, match=r"asks for 1 CPU and 0.125 GPUs, but the largest node has 8 CPUs"):
        settle(ResourceConfig(gpus_per_trial=0.125), [Node(8)])


@pytest.mark.parametrize(
    ("nodes", "memory", "expected"),
    [
        ([Node(96, 8)], 80.0, Resources(1, 1, 0.125, 64)),
        ([Node(96, 8)], 2.0, Resources(1, 12, 1.0, 8)),
        ([Node(96, 8), Node(4, 1)], 80.0, Resources(1, 1, 0.25, 36)),
        ([Node(96, 8)], 5.0, Resources(1, 6, 0.5, 16)),
        ([Node(8)], 80.0, Resources(1, 8, 0, 1)),
    ],
)
def test_how_many_share_a_gpu_may_be_left_to_memory_and_cpus(
    nodes: list[Node], memory: float, expected: Resources
) -> None:
    config = replace(RunConfig(), {"resources.gpus_per_trial": "auto", "resources.gpu_memory": memory})
    assert settle_for(config, backbone("minilm").config, nodes, ()) == expected


def test_several_workers_share_no_gpu_by_themselves() -> None:
    values = {"gpus_per_trial": "auto", "gpu_memory": 80, "workers_per_trial": 2}
    config = replace(RunConfig(), {f"resources.{name}": value for name, value in values.items()})
    assert settle_for(config, backbone("minilm").config, [LARGE], ()) == Resources(2, 24, 2, 4)


def test_where_memory_is_not_known_a_number_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effir_dist.training.memory.gpu_bytes", lambda: 0)
    config = replace(RunConfig(), {"resources.gpus_per_trial": "auto"})
    with pytest.raises(InputError, match=r"no GPU of this machine tells it: say it by resources.gpu_memory=80"):
        settle_for(config, backbone("minilm").config, [LARGE], ())


def test_what_trials_share_is_said() -> None:
    assert sharing(Resources(1, 1, 0.125, 8), 80e9) == "8 trials share a GPU of 80.0 GB, each may fill 9.5 GB"
    short = sharing(Resources(1, 0.5, 0.125, 8), 0)
    assert short == "8 trials share a GPU; each has 0.5 of a CPU, for which it then waits"
    assert sharing(Resources(1, 0.5, 1, 8), 80e9) == sharing(Resources(1, 0.5, 0, 8), 0) == ""


def test_work_that_runs_alone_has_the_whole_gpu() -> None:
    assert Resources(1, 1, 0.125, 8).alone.gpus == 1
    assert Resources(2, 2, 2, 1).alone == Resources(2, 2, 2, 1)
    assert Resources(1, 2, 0, 1).alone.gpus == 0

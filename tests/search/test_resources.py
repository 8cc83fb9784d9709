"""What a trial takes and how many run at a time; a trial that never fits is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from effir_dist.core.config import replace
from effir_dist.core.errors import InputError
from effir_dist.core.settings import ResourceConfig, RunConfig
from effir_dist.search.cluster import resources
from effir_dist.search.cluster.ray_train import interface
from effir_dist.search.cluster.resources import Resources, settle


@pytest.mark.parametrize(
    ("config", "present", "expected"),
    [
        (ResourceConfig(), {"CPU": 2}, Resources(1, 2, 0, 1)),
        (ResourceConfig(), {"CPU": 64}, Resources(1, 8, 0, 8)),
        (ResourceConfig(max_concurrent=2), {"CPU": 2}, Resources(1, 1, 0, 2)),
        (ResourceConfig(), {"CPU": 96, "GPU": 8}, Resources(1, 12, 1, 8)),
        (ResourceConfig(workers_per_trial=4), {"CPU": 96, "GPU": 8}, Resources(4, 48, 4, 2)),
        (ResourceConfig(gpus_per_trial=0.5), {"CPU": 8, "GPU": 1}, Resources(1, 4, 0.5, 2)),
        (ResourceConfig(gpus_per_trial=0), {"CPU": 8, "GPU": 1}, Resources(1, 8, 0, 1)),
        (ResourceConfig(workers_per_trial=8, gpus_per_worker=1), {"CPU": 192, "GPU": 16}, Resources(8, 96, 8, 2)),
        (ResourceConfig(workers_per_trial=2, cpus_per_trial=2), {"CPU": 2}, Resources(2, 2, 0, 1)),
    ],
)
def test_defaults_use_the_machine(config: ResourceConfig, present: dict[str, float], expected: Resources) -> None:
    assert settle(config, present, {}) == expected


def test_what_a_cluster_may_grow_to_counts() -> None:
    assert settle(ResourceConfig(), {"CPU": 4}, {"CPU": 100, "GPU": 16}) == Resources(1, 6, 1, 16)


def test_a_trial_that_never_fits_is_refused() -> None:
    with pytest.raises(InputError, match="asks for 2 GPUs, but the cluster has 0 and may grow to 1"):
        settle(ResourceConfig(gpus_per_trial=2), {"CPU": 4}, {"CPU": 4, "GPU": 1})


def test_the_growth_of_a_ray_up_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "BOOTSTRAP_FILE", str(tmp_path / "ray_bootstrap_config.yaml"))
    assert resources.growth() == {}
    (tmp_path / "ray_bootstrap_config.yaml").write_text(
        "max_workers: 4\nhead_node_type: head\navailable_node_types:\n"
        "  head: {resources: {CPU: 8}, max_workers: 0}\n  gpu: {resources: {CPU: 96, GPU: 8}, max_workers: 2}\n"
    )
    assert resources.growth() == {"CPU": 200.0, "GPU": 16.0}


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

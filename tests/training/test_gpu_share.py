"""Trials that share a GPU: the memory that each may fill, and what is said where it is too little."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from effir_dist.core.config import from_dict, replace, to_dict
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.models.families.registry import backbone
from effir_dist.search.checks import sharing_warnings
from effir_dist.search.cluster.worker import in_worker
from effir_dist.training import gpu_share, memory

MODEL = backbone("minilm").config
GB = 10**9


def config_of(**values: Any) -> RunConfig:
    return replace(RunConfig(), {f"resources.{name}": value for name, value in values.items()})


def peak_of(config: RunConfig) -> float:
    return memory.predict(MODEL, config, "bfloat16").peak


@pytest.mark.parametrize(("gpus", "share"), [(0.125, 79.5), (0.25, 159.5), (1, 640), (8, 640)])
def test_a_process_is_kept_to_its_part_of_the_memory(gpus: float, share: float, monkeypatch: Any) -> None:
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=640 * GB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    assert in_worker(abs, 1, gpus, -2) == 2
    assert limits == [share / 640]


def test_as_many_fit_as_is_said() -> None:
    """One more, and the largest would not have its tenth to spare."""
    peak = peak_of(RunConfig())
    for capacity in (4 * GB, 16 * GB, 80 * GB):
        trials = gpu_share.fitting(peak, capacity)
        parts = [memory.own_bytes(capacity, 1 / n) * (1 - memory.SPARE) for n in (trials, trials + 1)]
        assert parts[0] >= peak > parts[1]
        warned = [gpu_share.warnings(MODEL, config_of(gpus_per_trial=1 / n, gpu_memory=capacity / GB))
                  for n in (trials, trials + 1) if n > 1]  # fmt: skip
        assert [len(found) for found in warned[-2:]][-1] == 1
        assert not warned[0] or len(warned) == 1


def test_the_plan_says_how_many_share_a_gpu_and_what_each_may_fill() -> None:
    lines = gpu_share.summary(MODEL, config_of(gpus_per_trial=0.125, gpu_memory=80))
    assert lines[0].startswith("memory: at most ")
    assert lines[1] == "8 trials share a GPU of 80.0 GB, each may fill 9.5 GB"
    small, large = (config_of(gpus_per_trial=1, gpu_memory=size) for size in (4, 80))
    assert gpu_share.summary(MODEL, small) == memory.summary(MODEL, small)
    room = gpu_share.fitting(peak_of(large), 80 * GB)
    hint = f"{room} such trials have room on a GPU: --gpus-per-trial auto shares it"
    assert gpu_share.summary(MODEL, large) == [*memory.summary(MODEL, large), hint]
    auto = gpu_share.summary(MODEL, config_of(gpus_per_trial="auto", gpu_memory=2))
    assert auto[1] == "resources.gpus_per_trial=auto: 1 on a GPU of 2.0 GB, or as many as it has CPUs, if fewer"


def test_where_the_memory_is_not_known_the_plan_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "gpu_bytes", lambda: 0)
    config = config_of(gpus_per_trial=0.125)
    line = gpu_share.summary(MODEL, config)[1]
    needed = 8 * (peak_of(config) / 0.9 + 0.5e9)
    assert line == f"8 trials share a GPU, which then needs {needed / GB:.1f} GB"
    assert gpu_share.warnings(MODEL, config) == []


def test_what_does_not_fit_is_said_with_what_would() -> None:
    config = replace(config_of(gpus_per_trial=0.125, gpu_memory=80), {"train.batch_size": 1024})
    (found,) = gpu_share.warnings(MODEL, config)
    assert found.startswith("8 trials share a GPU of 80.0 GB, each may fill 9.5 GB, of which 10% stay free, and")
    assert found.endswith(" or train.gradcache_queries=256 would fit")
    fewer = float(found.split("resources.gpus_per_trial=")[1].split()[0])
    for changes in ({"resources.gpus_per_trial": fewer}, {"train.gradcache_queries": 256}):
        assert gpu_share.warnings(MODEL, replace(config, changes)) == []
        gpu_share.check(MODEL, replace(config, changes))


def test_weights_and_optimizer_that_no_chunk_makes_smaller_are_refused() -> None:
    large = backbone("qwen3-0.6b").config
    config = config_of(gpus_per_trial=0.125, gpu_memory=80)
    message = r"each may fill 9.5 GB, but weights, gradients and optimizer of the unpruned model alone take 11.\d"
    with pytest.raises(InputError, match=message):
        gpu_share.check(large, config)
    gpu_share.check(large, replace(config, {"resources.gpus_per_trial": 0.25}))
    gpu_share.check(large, replace(config, {"train.steps": 0, "train.epochs": 0.0}))


def test_speeds_measured_beside_others_are_warned_of() -> None:
    timed = replace(config_of(gpus_per_trial=0.5), {"search.objectives": ["document_speedup", "ndcg_at_10"]})
    assert any(
        "document_speedup is measured while other trials use the same GPU" in w for w in sharing_warnings(MODEL, timed)
    )
    assert sharing_warnings(MODEL, replace(timed, {"resources.gpus_per_trial": 1.0})) == []


@pytest.mark.parametrize("value", [0.125, "auto", None])
def test_parts_are_written_and_read(value: object) -> None:
    config = config_of(gpus_per_trial=value)
    assert from_dict(to_dict(config)) == config
    assert config.resources.may_share == (value is not None)
